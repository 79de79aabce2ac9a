// The saved page: its data are in the file, as base64.
(async () => {
  const root = document.getElementById("explorer"), fallback = [...root.childNodes];
  try {
    if (typeof DecompressionStream === "undefined") throw new TypeError("no DecompressionStream");
    const text = document.getElementById("data").textContent.trim();
    const bytes = Uint8Array.fromBase64 ? Uint8Array.fromBase64(text) : Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
    await new Promise((done) => requestAnimationFrame(() => setTimeout(done)));  // the map first, then the work
    window.headscope = await exploreHeads(root, bytes);
    root.dataset.ready = "";
  } catch (error) {
    root.replaceChildren(...fallback);
    document.getElementById("failed").hidden = false;
    if (!(error instanceof TypeError)) throw error;
  }
})();
