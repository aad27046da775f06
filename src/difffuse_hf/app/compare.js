// Before and after: the line between the two pictures follows the slider below them and the pointer over them.
let at = 50;

const draw = () => {
  const stack = element.querySelector(".stack");
  if (!stack) return;
  stack.style.setProperty("--at", `${at}%`);
  element.querySelector(".divider").value = at;
};

element.addEventListener("input", (event) => {
  if (!event.target.matches(".divider")) return;
  at = event.target.value;
  draw();
});

const follow = (event) => {
  const stack = event.target.closest(".stack");
  if (!stack || !event.buttons) return;
  const box = stack.getBoundingClientRect();
  at = Math.round(Math.min(100, Math.max(0, (100 * (event.clientX - box.left)) / box.width)));
  draw();
};
element.addEventListener("pointerdown", follow);
element.addEventListener("pointermove", follow);
watch("value", draw);
draw();
