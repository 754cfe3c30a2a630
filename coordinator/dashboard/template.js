/** Elements made from the page's templates, and writing to them only what has changed. */

/** A copy of `<template id>`: {root, fields}, where fields are its elements by their `data-field`. */
export function copy(id) {
  const root = document.getElementById(id).content.firstElementChild.cloneNode(true);
  const fields = {};
  for (const element of root.querySelectorAll("[data-field]")) fields[element.dataset.field] = element;
  return { root, fields };
}

/** Sets the text; an unchanged one is left alone, so that selections and screen readers are not disturbed. */
export function write(element, text) {
  if (element.textContent !== String(text)) element.textContent = text;
}

/** Sets an attribute, or removes it if the value is null. */
export function mark(element, name, value) {
  if (value === null) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

/** Makes the element's children `texts`, each in an element `tag`. */
export function list(element, tag, texts) {
  while (element.children.length > texts.length) element.lastElementChild.remove();
  while (element.children.length < texts.length) element.append(document.createElement(tag));
  texts.forEach((text, index) => write(element.children[index], text));
}
