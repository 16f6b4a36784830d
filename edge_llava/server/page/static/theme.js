// Light or dark: the device's choice unless the user made one. A classic script: it runs before the first paint.
(() => {
  const root = document.documentElement;
  const device = matchMedia("(prefers-color-scheme: dark)");
  const ofDevice = () => (device.matches ? "dark" : "light");
  const KEY = "edge-llava.theme";
  let kept = {};
  try {
    kept = localStorage;
  } catch {
    // storage is blocked: chosen until the page is left
  }

  function show() {
    root.dataset.theme = kept[KEY] ?? ofDevice();
    document.getElementById("theme")?.setAttribute("aria-pressed", root.dataset.theme === "dark");
  }

  show();
  device.addEventListener("change", show);
  document.addEventListener("DOMContentLoaded", () => {
    show();
    document.getElementById("theme").addEventListener("click", () => {
      const theme = root.dataset.theme === "dark" ? "light" : "dark";
      if (theme === ofDevice()) delete kept[KEY]; // follow the device again
      else kept[KEY] = theme;
      show();
    });
  });
})();
