// The widget: its data are a trait, and the model behind it answers by message.
export default {
  render({model, el}) {
    const root = document.createElement("div");
    el.append(root);
    const jupyter = document.body.dataset.jpThemeLight;
    const dark = jupyter === "false" || document.body.classList.contains("vscode-dark") || document.documentElement.getAttribute("theme") === "dark";
    const light = jupyter === "true" || document.body.classList.contains("vscode-light");
    if (dark || light) root.dataset.theme = dark ? "dark" : "light";
    let number = 0;
    const waiting = new Map();
    const hear = (message) => {
      const done = waiting.get(message.number);
      waiting.delete(message.number);
      if (done) done(message.error ? {error: message.error} : message.found);
    };
    model.on("msg:custom", hear);
    const ask = (prompt, heads) => new Promise((done) => {
      waiting.set(++number, done);
      model.send({number, prompt, heads});
    });
    const view = model.get("packed");
    exploreHeads(root, new Uint8Array(view.buffer, view.byteOffset, view.byteLength), model.get("is_live") ? ask : null)
      .then(() => { root.dataset.ready = ""; });
    return () => model.off("msg:custom", hear);
  },
};
