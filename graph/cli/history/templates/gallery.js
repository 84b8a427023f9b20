const find = document.getElementById("find"), state = document.getElementById("state"), count = document.getElementById("count");
const cards = [...document.querySelectorAll("article")].map(card => [card, card.textContent.toLowerCase()]);
function show() {
  const words = find.value.toLowerCase().split(/\s+/).filter(Boolean);
  let shown = 0;
  for (const [card, text] of cards) {
    card.hidden = !(words.every(word => text.includes(word)) && (!state.value || card.dataset.state === state.value));
    shown += !card.hidden;
  }
  count.textContent = shown;
}
find.addEventListener("input", show);
state.addEventListener("change", show);
show();
