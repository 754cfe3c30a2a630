/** The layers of a stage as a row of letters on coloured cells, and the words for them. */

const KINDS = {
  M: { look: "mamba", words: "Mamba-2" },
  E: { look: "moe", words: "mixture of experts" },
  "*": { look: "attention", words: "attention" },
  "-": { look: "mlp", words: "MLP" },
};

/** Fills `element` with a cell for each layer; `first` is the index of the first one in the model. */
export function drawPattern(element, pattern, first) {
  const cells = [...pattern].map((letter, index) => cell(letter, `layer ${first + index}: ${words(letter)}`));
  element.replaceChildren(...cells);
  const counts = Object.keys(KINDS).filter((letter) => pattern.includes(letter));
  const said = counts.map((letter) => `${pattern.split(letter).length - 1} ${words(letter)}`);
  element.setAttribute("aria-label", `${pattern.length} layers: ${said.join(", ")}`);
}

/** Fills `element` with the legend of the kinds that occur in the model. */
export function drawLegend(element, pattern) {
  const items = Object.keys(KINDS).filter((letter) => pattern.includes(letter)).map((letter) => {
    const item = document.createElement("li");
    item.append(cell(letter, ""), words(letter));
    return item;
  });
  element.replaceChildren(...items);
}

function cell(letter, title) {
  const element = document.createElement("i");
  element.className = `layer ${KINDS[letter]?.look ?? ""}`;
  element.textContent = letter;
  element.title = title;
  return element;
}

function words(letter) {
  return KINDS[letter]?.words ?? letter;
}
