// Charts: uPlot draws the numbers that stand in the page.
for (const place of document.querySelectorAll("[data-chart]")) {
  const data = JSON.parse(place.dataset.chart);
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const units = {
    seconds: (v) => v === 0 ? "0 s" : Math.abs(v) >= 100 ? v.toFixed(0) + " s" : Math.abs(v) >= 0.1 ? +v.toFixed(2) + " s" : +(v * 1000).toPrecision(3) + " ms",
    bytes: (v) => {
      let n = 0;
      while (Math.abs(v) >= 1024 && n < 5) { v /= 1024; n += 1; }
      return +v.toFixed(v >= 100 ? 0 : 1) + " " + ["B", "KiB", "MiB", "GiB", "TiB", "PiB"][n];
    },
    "": (v) => String(+v.toPrecision(4)),
  };
  const say = units[data.unit], sayX = units[data.xUnit];
  // Marks at powers of two for bytes.
  const twos = [];
  for (let n = 0; n < 50; n += 1) twos.push(2 ** n);
  let made = null;

  const build = () => {
    const width = place.clientWidth - 24;
    if (width <= 0) return;
    if (made) made.destroy();
    const accent = css("--accent"), muted = css("--muted"), line = css("--line"), faint = css("--faint"), ink = css("--ink");
    const tones = [accent, ink, faint, muted];
    let drawn = 0;
    const series = data.series.map((each) => {
      const base = { label: each.label, value: (_, v) => v == null ? "\u2013" : say(v), points: { show: false } };
      if (each.kind === "limit") return { ...base, stroke: muted, width: 1.2, dash: [6, 5], spanGaps: true };
      const tone = tones[drawn % tones.length], dash = drawn < tones.length ? [] : [3, 3];
      drawn += 1;
      if (each.kind === "bars") {
        return { ...base, stroke: tone, fill: tone, width: 0, paths: uPlot.paths.bars({ size: [0.72, 42], radius: 0.15 }) };
      }
      if (each.kind === "area") return { ...base, stroke: tone, width: 1.6, fill: tone + "22" };
      return { ...base, stroke: tone, width: 1.8, dash, spanGaps: true, points: { show: data.x.length < 120, size: 5, fill: tone } };
    });
    const axis = { stroke: muted, grid: { stroke: line, width: 1 }, ticks: { show: false }, font: "12px system-ui, sans-serif" };
    const whole = data.xUnit === "";
    // uPlot makes a range of 100 around a single place.
    const reach = (_, a, b) => !whole ? [a, b] : data.x.length === 1 ? [data.x[0] - 0.6, data.x[0] + 0.6] : [a - 0.6, b + 0.6];
    made = new uPlot({
      width, height: data.height,
      scales: { x: { time: false, range: reach }, y: { range: (_, a, b) => [Math.min(0, a), b > 0 ? b * 1.08 : 1] } },
      series: [{ label: data.xLabel, value: (_, v) => v == null ? "\u2013" : sayX(v) }, ...series],
      axes: [
        { ...axis, grid: { show: false }, size: 28, values: (_, all) => all.map((v) => whole && v % 1 ? "" : sayX(v)), incrs: whole ? [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000] : undefined },
        { ...axis, size: 66, values: (_, all) => all.map((v) => say(v)), incrs: data.unit === "bytes" ? twos : undefined },
      ],
      cursor: { y: false, drag: { x: true, y: false } },
      legend: { live: true, markers: { width: 0, fill: (_, n) => [null, ...series][n].stroke } },
    }, [data.x, ...data.series.map((each) => each.values)], place);
  };
  build();
  document.addEventListener("theme", build);
  document.addEventListener("shown", build);
  let before = place.clientWidth;
  new ResizeObserver(() => {
    if (place.clientWidth !== before) { before = place.clientWidth; build(); }
  }).observe(place);
}
