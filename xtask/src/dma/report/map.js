
const when = document.getElementById("when");
const slider = document.createElement("input");
Object.assign(slider, { type: "range", min: 0, max: names.length - 1, value: START });
slider.setAttribute("aria-label", "step");
when.after(slider);
function show(step) {
  when.textContent = "step " + step + ": " + names[step];
  for (const group of document.querySelectorAll("[data-map]")) {
    const [system, grid] = group.dataset.map.split(" ");
    const look = maps[system][Math.min(step, maps[system].length - 1)];
    let cells = "";
    for (const [start, end] of look[grid]) {
      for (let page = start; page < end;) {
        const row = Math.floor(page / COLUMNS);
        const stop = Math.min(end, (row + 1) * COLUMNS);
        cells += `<rect x="${page % COLUMNS * CELL}" y="${row * CELL}" width="${(stop - page) * CELL}" height="CELL"/>`;
        page = stop;
      }
    }
    group.innerHTML = cells;
  }
}
slider.addEventListener("input", () => show(Number(slider.value)));
