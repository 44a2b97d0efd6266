// Before the first paint: the theme that was chosen here before, else that of the system.
{
  let chosen = "";
  try {
    chosen = localStorage.getItem("open4m-theme") || "";
  } catch {
    chosen = ""; // storage is switched off
  }
  if (chosen) document.documentElement.dataset.theme = chosen;
}
