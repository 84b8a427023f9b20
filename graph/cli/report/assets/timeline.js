// The timeline: a lane for each node; drag or arrow keys move it, buttons or plus and minus zoom.
for (const place of document.querySelectorAll(".timeline")) {
  const data = JSON.parse(place.dataset.timeline);
  const canvas = place.querySelector("canvas"), tip = place.querySelector(".tip");
  const LANE = 24, TOP = 24;
  const most = Math.max(data.seconds, ...data.items.map((item) => item[1] + item[2]), 1e-6);
  const longest = Math.max(...data.lanes.map((lane) => lane.name.length));
  let from = 0, to = most;

  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const gutter = (width) => Math.min(longest * 6.8 + 16, width < 600 ? 112 : 230);
  const tick = (span, room) => {
    const rough = span / Math.max(2, room / 90), power = 10 ** Math.floor(Math.log10(rough));
    return [1, 2, 5, 10].map((n) => n * power).find((n) => n >= rough);
  };
  const short = (name, room) => {
    const letters = Math.floor((room - 16) / 6.8);
    return name.length <= letters ? name : "\u2026" + name.slice(-Math.max(3, letters - 1));
  };
  const say = (seconds) => seconds >= 1 ? seconds.toFixed(2) + " s" : (seconds * 1000).toPrecision(3) + " ms";

  const draw = () => {
    const width = canvas.clientWidth;
    if (!width) return;
    const height = data.lanes.length * LANE + TOP + 4, ratio = devicePixelRatio || 1;
    canvas.width = width * ratio;
    canvas.height = height * ratio;
    canvas.style.height = height + "px";
    const at = canvas.getContext("2d");
    at.scale(ratio, ratio);
    const left = gutter(width), room = width - left - 8, x = (t) => left + (t - from) / (to - from) * room;
    const accent = css("--accent"), faint = css("--faint"), line = css("--line"), muted = css("--muted"), ink = css("--ink");
    at.font = "12px ui-monospace, Menlo, Consolas, monospace";
    at.textBaseline = "middle";
    const step = tick(to - from, room);
    const digits = Math.max(0, -Math.floor(Math.log10(step)));
    at.strokeStyle = line;
    for (let t = Math.ceil(from / step) * step; t <= to + step / 1e6; t += step) {
      at.beginPath(); at.moveTo(x(t), TOP - 4); at.lineTo(x(t), height); at.stroke();
      at.fillStyle = muted; at.textAlign = x(t) > width - 30 ? "right" : "center";
      at.fillText(t.toFixed(digits) + " s", x(t), 9);
    }
    at.textAlign = "left";
    data.lanes.forEach((lane, n) => {
      at.fillStyle = lane.kind === "node" ? ink : muted;
      at.fillText(short(lane.name, left), 0, TOP + n * LANE + LANE / 2);
    });
    at.save();
    at.beginPath(); at.rect(left, TOP - 4, room + 8, height); at.clip();
    for (const [lane, start, seconds] of data.items) {
      if (start > to || start + seconds < from) continue;
      const x0 = x(start), wide = Math.max(1, x(start + seconds) - x0);
      const kind = data.lanes[lane].kind;
      at.fillStyle = kind === "node" ? accent : faint;
      at.globalAlpha = kind === "turn" || kind === "phase" ? 0.55 : 1;
      at.beginPath();
      at.roundRect(x0, TOP + lane * LANE + 5, wide > 3 ? wide - 1 : wide, LANE - 10, wide > 6 ? 3 : 0);
      at.fill();
    }
    at.restore();
  };
  const show = (a, b) => {
    const span = Math.min(most, Math.max(most / 1e5, b - a));
    from = Math.min(Math.max(0, a), most - span);
    to = from + span;
    draw();
  };
  const zoom = (by, at) => show(at - (at - from) / by, at + (to - at) / by);
  const time = (event) => {
    const box = canvas.getBoundingClientRect(), left = gutter(box.width);
    return from + Math.max(0, event.clientX - box.left - left) / (box.width - left - 8) * (to - from);
  };
  const acts = { in: () => zoom(1.6, (from + to) / 2), out: () => zoom(1 / 1.6, (from + to) / 2), all: () => show(0, most) };
  for (const [name, act] of Object.entries(acts)) place.querySelector(`[data-do="${name}"]`).addEventListener("click", act);
  canvas.addEventListener("keydown", (event) => {
    const span = to - from;
    const act = { ArrowLeft: () => show(from - span / 6, to - span / 6), ArrowRight: () => show(from + span / 6, to + span / 6),
      "+": acts.in, "=": acts.in, "-": acts.out, "0": acts.all }[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });
  canvas.addEventListener("wheel", (event) => {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    zoom(Math.exp(-event.deltaY / 300), time(event));
  }, { passive: false });
  let held = null;
  canvas.addEventListener("pointerdown", (event) => { held = [event.clientX, from, to]; canvas.setPointerCapture(event.pointerId); });
  canvas.addEventListener("pointerup", () => { held = null; });
  canvas.addEventListener("pointercancel", () => { held = null; });
  canvas.addEventListener("pointerleave", () => { tip.hidden = true; });
  canvas.addEventListener("pointermove", (event) => {
    const box = canvas.getBoundingClientRect();
    if (held) {
      const by = (event.clientX - held[0]) / (box.width - gutter(box.width) - 8) * (held[2] - held[1]);
      show(held[1] - by, held[2] - by);
      return;
    }
    const lane = Math.floor((event.clientY - box.top - TOP) / LANE), t = time(event), slack = (to - from) / box.width * 2;
    const found = data.items.find((item) => item[0] === lane && item[1] - slack <= t && t <= item[1] + item[2] + slack);
    tip.hidden = !found;
    if (!found) return;
    const { name, type } = data.lanes[lane];
    tip.textContent = [found[5] || name, type, found[3] === null ? "" : "step " + found[3],
      say(found[2]) + " from " + say(found[1]), found[4] > 1 ? found[4] + " calls" : ""].filter(Boolean).join(" \u00b7 ");
    tip.style.left = Math.min(event.clientX - box.left + 12, box.width - 200) + "px";
    tip.style.top = event.clientY - box.top + canvas.offsetTop + 16 + "px";
  });
  new ResizeObserver(draw).observe(canvas.parentElement);
  document.addEventListener("theme", draw);
  document.addEventListener("shown", draw);
}
