// The runs of a sweep: filters of the grid, and points of the scatter that choose in it.
for (const form of document.querySelectorAll(".filters")) {
  const selects = [...form.querySelectorAll("select")];
  const cards = [...form.nextElementSibling.querySelectorAll(".card")].map((card) => [card, card.dataset.values.split(" ")]);
  const told = form.querySelector(".shown");
  const none = form.parentElement.querySelector(".no-card");
  const apply = () => {
    let shown = 0;
    for (const [card, places] of cards) {
      const fits = selects.every((select) => select.value === ""
        || (select.dataset.name === "status" ? card.dataset.status : places[Number(select.dataset.name)]) === select.value);
      card.hidden = !fits;
      if (!fits) for (const clip of card.querySelectorAll("video")) clip.pause();
      shown += fits;
    }
    told.textContent = `${shown} of ${cards.length}`;
    none.hidden = shown > 0;
  };
  form.addEventListener("change", apply);
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("reset", () => setTimeout(apply));
  apply();
  for (const point of document.querySelectorAll(".point[data-choose]")) {
    const choose = () => {
      for (const pair of point.dataset.choose.split(" ")) {
        const [name, value] = pair.split(":");
        const select = selects.find((each) => each.dataset.name === name);
        if (select) select.value = value;
      }
      apply();
      form.scrollIntoView({ behavior: matchMedia("(prefers-reduced-motion: reduce)").matches ? "auto" : "smooth" });
    };
    point.addEventListener("click", choose);
    point.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      choose();
    });
  }
}
