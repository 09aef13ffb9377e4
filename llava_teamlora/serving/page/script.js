() => {
  const KEY = "llava-teamlora-colours";
  const dark = (on) => document.body.classList.toggle("dark", on);
  const wished = localStorage.getItem(KEY) || "COLOURS";
  if (wished === "dark" || wished === "light") dark(wished === "dark");

  window.switchColours = () => {
    const on = !document.body.classList.contains("dark");
    dark(on);
    localStorage.setItem(KEY, on ? "dark" : "light");
  };

  // Behind hidden buttons are the files that the server has just made; one without a file does nothing.
  window.pressDownloads = () =>
    setTimeout(() => document.querySelectorAll("#file-left, #file-right").forEach((button) => button.click()), 50);

  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    const stop = document.querySelector("#question .stop-button");
    if (stop) { stop.click(); event.preventDefault(); }
  });
}
