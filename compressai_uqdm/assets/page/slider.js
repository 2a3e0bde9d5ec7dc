// Sliders through pictures as they arrive; "data" is what page.py has of them.
document.querySelectorAll(".picture").forEach((figure, i) => {
  const steps = data.pictures[i].steps, last = steps.length - 1;
  const find = (selector) => figure.querySelector(selector);
  const slider = find("input"), button = find("button");
  const show = () => {
    const step = steps[slider.value];
    const held = button.getAttribute("aria-pressed") === "true";
    find("img").src = held ? data.pictures[i].original ?? steps[last].src : step.src;
    find("output").textContent = step.words;
    slider.setAttribute("aria-valuetext", step.words);
    find(".bar div").style.width = `${100 * step.size / steps[last].size}%`;
  };
  slider.addEventListener("input", () => { button.setAttribute("aria-pressed", "false"); show(); });
  button.addEventListener("click", () => {
    button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
    show();
  });
  show();
});
