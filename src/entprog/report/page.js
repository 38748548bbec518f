"use strict";
// Values under the pointer: the lines of a plot are read back from their own path data.
const binary = ["B", "KiB", "MiB", "GiB", "TiB"];
function words(value, kind) {
  if (kind === "step") return "step " + Math.round(value);
  if (kind === "seconds") return value >= 60 ? Math.floor(value / 60) + " min " + Math.floor(value % 60) + " s" : value.toFixed(1) + " s";
  if (kind !== "bytes") return Number(value.toPrecision(4)).toString();
  let place = 0;
  while (value >= 1024 && place < binary.length - 1) { value /= 1024; place += 1; }
  return Number(value.toPrecision(3)) + " " + binary[place];
}
function axis(text) {
  const [low, high, kind] = text.split(",");
  return { low: Number(low), high: Number(high), kind };
}
for (const plot of document.querySelectorAll(".plot[data-x]")) {
  const x = axis(plot.dataset.x), y = axis(plot.dataset.y);
  const lines = [...plot.querySelectorAll("path[data-label]")].map((path) => ({
    name: path.dataset.label,
    colour: path.classList.contains("peak") ? "currentColor" : path.style.color,
    points: (path.getAttribute("d").match(/[-\d.]+,[-\d.]+/g) || []).map((pair) => pair.split(",").map(Number)),
  })).filter((line) => line.points.length);
  if (!lines.length) continue;
  const cursor = document.createElement("div"), tip = document.createElement("div");
  cursor.className = "cursor"; tip.className = "tip"; cursor.hidden = tip.hidden = true;
  plot.append(cursor, tip);
  const hide = () => { cursor.hidden = tip.hidden = true; };
  const show = (event) => {
    const box = plot.getBoundingClientRect();
    const share = (event.clientX - box.left) / box.width;
    if (share < 0 || share > 1) return hide();
    tip.replaceChildren(words(x.low + share * (x.high - x.low), x.kind));
    for (const line of lines) {
      const near = line.points.reduce((best, point) =>
        Math.abs(point[0] - 1000 * share) < Math.abs(best[0] - 1000 * share) ? point : best);
      if (Math.abs(near[0] - 1000 * share) > 25) continue;
      const row = document.createElement("div"), key = document.createElement("b");
      key.textContent = line.name + " "; key.style.color = line.colour;
      row.append(key, words(y.low + (1 - near[1] / 1000) * (y.high - y.low), y.kind));
      tip.append(row);
    }
    cursor.hidden = tip.hidden = false;
    cursor.style.left = 100 * share + "%";
    tip.style.left = share < 0.5 ? "calc(" + 100 * share + "% + 10px)" : "";
    tip.style.right = share < 0.5 ? "" : "calc(" + 100 * (1 - share) + "% + 10px)";
  };
  plot.addEventListener("pointermove", show);
  plot.addEventListener("pointerdown", show);
  plot.addEventListener("pointerleave", hide);
}
// The clips of one row show the same moment: all follow the first.
for (const row of document.querySelectorAll(".beside")) {
  const [first, ...others] = row.querySelectorAll("video");
  if (first) first.addEventListener("timeupdate", () => {
    for (const video of others) if (Math.abs(video.currentTime - first.currentTime) > 0.06) video.currentTime = first.currentTime;
  });
}
// A click pauses a clip; those who ask for less motion start with all of them paused.
const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
for (const video of document.querySelectorAll("video")) {
  if (still) { video.autoplay = false; video.pause(); video.controls = true; }
  video.addEventListener("click", () => (video.paused ? video.play() : video.pause()));
}
