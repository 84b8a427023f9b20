// Two pictures or clips of one output: a line between them that moves, clips in step, other views.
for (const slider of document.querySelectorAll(".slider")) {
  const stage = slider.querySelector(".stage");
  const under = stage.querySelector(".under");
  const over = stage.querySelector(".over");
  const cut = slider.querySelector(".cut input");
  const clips = slider.dataset.kind === "clip";

  const divide = () => { stage.style.setProperty("--cut", `${cut.value}%`); };
  const drag = (event) => {
    if (stage.classList.contains("beside") || stage.classList.contains("difference")) return;
    const box = stage.getBoundingClientRect();
    cut.value = String(Math.round(100 * (event.clientX - box.left) / box.width));
    divide();
  };
  cut.addEventListener("input", divide);
  stage.addEventListener("pointerdown", (event) => {
    stage.setPointerCapture(event.pointerId);
    drag(event);
  });
  stage.addEventListener("pointermove", (event) => { if (stage.hasPointerCapture(event.pointerId)) drag(event); });
  divide();

  const modes = [...slider.querySelectorAll("[data-mode]")];
  for (const button of modes) {
    button.addEventListener("click", () => {
      for (const each of modes) {
        each.setAttribute("aria-pressed", String(each === button));
        stage.classList.toggle(each.dataset.mode, each === button);
      }
      cut.disabled = button.dataset.mode !== "slide";
    });
  }

  // A small picture is enlarged, pixel by pixel.
  const size = () => {
    const width = clips ? under.videoWidth : under.naturalWidth;
    stage.classList.toggle("small", width > 0 && width < 340);
  };
  if (clips ? under.readyState > 0 : under.complete) size();
  under.addEventListener(clips ? "loadedmetadata" : "load", size);
  if (!clips) continue;

  const count = Math.max(1, Number(slider.dataset.frames || 1));
  const seek = slider.querySelector(".seek input");
  const told = slider.querySelector(".count");
  const play = slider.querySelector('[data-do="play"]');
  const length = () => under.duration / count;
  const frame = () => Math.min(count - 1, Math.max(0, Math.floor(under.currentTime / length() + 1e-4)));
  const tell = (number) => {
    seek.value = String(number);
    told.textContent = `frame ${number}`;
  };
  const follow = () => { over.currentTime = Math.min(under.currentTime, over.duration || 0); };
  const go = (number) => {
    pause();
    const wanted = Math.min(count - 1, Math.max(0, number));
    under.currentTime = (wanted + 0.5) * length();
    follow();
    tell(wanted);
  };
  const pause = () => {
    under.pause();
    over.pause();
    play.textContent = "Play";
  };
  const step = () => {
    if (under.paused) return;
    // Two players drift apart. The second is set right when it is half a frame off.
    if (!over.ended && Math.abs(over.currentTime - under.currentTime) > length() / 2) follow();
    tell(frame());
    requestAnimationFrame(step);
  };
  const start = async () => {
    follow();
    play.textContent = "Pause";
    await Promise.all([under.play(), over.play()]).catch(pause);
    step();
  };
  under.addEventListener("ended", () => {
    under.currentTime = 0;
    start();
  });
  play.addEventListener("click", () => { if (under.paused) start(); else pause(); });
  seek.addEventListener("input", () => go(Number(seek.value)));
  slider.querySelector('[data-do="back"]').addEventListener("click", () => go(Number(seek.value) - 1));
  slider.querySelector('[data-do="next"]').addEventListener("click", () => go(Number(seek.value) + 1));
  const worst = slider.querySelector('[data-do="worst"]');
  if (worst) worst.addEventListener("click", () => go(Number(worst.dataset.frame)));
}
