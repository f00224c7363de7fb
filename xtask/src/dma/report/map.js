
function rectangles(ranges) {
  let cells = "";
  for (const [start, end] of ranges) {
    for (let page = start; page < end;) {
      const row = Math.floor(page / COLUMNS);
      const stop = Math.min(end, (row + 1) * COLUMNS);
      cells += `<rect x="${page % COLUMNS * CELL}" y="${row * CELL}" width="${(stop - page) * CELL}" height="CELL"/>`;
      page = stop;
    }
  }
  return cells;
}
const within = (ranges, page) => ranges.some(([start, end]) => page >= start && page < end);
// What a page of a grid is at a step, in words.
function state(look, grid, page) {
  if (grid == "brought") return within(look.brought, page) ? "the host's, lent to the guest" : "not there";
  if (grid == "window") return within(look.window, page) ? "a page of the guest's, lent to the host here" : "nothing";
  if (within(look.absent, page)) return "no frame";
  return within(look.ram, page) ? "the guest's, lent to the host" : "the guest's, lent to nobody";
}
maps.forEach((map, index) => {
  const when = document.querySelector(`[data-when="${index}"]`);
  const about = document.querySelector(`[data-page="${index}"]`);
  const slider = document.createElement("input");
  Object.assign(slider, { type: "range", min: 0, max: map.looks.length - 1, value: map.start });
  slider.setAttribute("aria-label", "trap");
  when.before(slider);
  slider.addEventListener("input", () => {
    const look = map.looks[slider.value];
    when.textContent = look.name;
    about.textContent = "";
    for (const group of document.querySelectorAll(`[data-layer^="${index} "]`))
      group.innerHTML = rectangles(look[group.dataset.layer.split(" ")[1]]);
  });
  for (const grid of document.querySelectorAll(`[data-grid^="${index} "]`)) {
    const name = grid.dataset.grid.split(" ")[1];
    grid.addEventListener("pointermove", (event) => {
      const at = new DOMPoint(event.clientX, event.clientY).matrixTransform(grid.getScreenCTM().inverse());
      const page = Math.floor(at.y / CELL) * COLUMNS + Math.floor(at.x / CELL);
      let step = Number(slider.value);
      const now = state(map.looks[step], name, page);
      while (step > 0 && state(map.looks[step - 1], name, page) == now) step--;
      about.textContent = `page ${page}: ${now}, since ${map.looks[step].name}`;
    });
  }
});
