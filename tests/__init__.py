from tests.shapes import checked as checked  # the plugin of jaxtyping looks for it here
