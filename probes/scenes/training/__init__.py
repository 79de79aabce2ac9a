"""How the built-in vision-language models of scenes were made: `python -m probes.scenes.training.llava_tiny WORK`."""
