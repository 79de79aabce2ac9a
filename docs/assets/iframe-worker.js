// The search runs in a worker, and browsers give none to a page that was opened from disk: there its script runs in a
// hidden frame, which is told and tells the same messages.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      const script = new URL(url, document.baseURI).href.replaceAll("&", "&amp;").replaceAll('"', "&quot;");
      frame.hidden = true;
      frame.srcdoc = '<script>self.postMessage = (told) => parent.postMessage(told, "*");</' + `script><script src="${script}"></` + "script>";
      this.ready = new Promise((done) => frame.addEventListener("load", () => done(frame.contentWindow)));
      addEventListener("message", (event) => {
        if (event.source === frame.contentWindow) this.dispatchEvent(new MessageEvent("message", {data: event.data}));
      });
      const hang = () => document.body.append(frame);
      if (document.body) hang(); else addEventListener("DOMContentLoaded", hang);
    }
    postMessage(told) { this.ready.then((frame) => window.postMessage.call(frame, told, "*")); }  // its own now leads here
    terminate() {}
  };
}
