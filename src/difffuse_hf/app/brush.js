// The mask of a slice, on the model's own pixels: painted with the pointer, or with arrow keys and space.
// Every stroke is sent to the server, which keeps the mask with its slice.
let mask = null; // one number a pixel, 0 or 1
let slice = null;
let cursor = { x: 0, y: 0 };
let before = []; // masks to go back to
let stroke = false;
let picture = null;

const MOST_STEPS_BACK = 20;
const canvas = () => element.querySelector("canvas");
const radius = () => Number(element.querySelector(".radius").value);
const erasing = () => element.querySelector(".erase").checked;

const draw = () => {
  const board = canvas();
  if (!board || !mask) return;
  const { width, height } = props.value;
  const pixel = board.width / width;
  const pen = board.getContext("2d");
  pen.imageSmoothingEnabled = false;
  pen.fillRect(0, 0, board.width, board.height);
  if (picture.complete) pen.drawImage(picture, 0, 0, board.width, board.height);
  pen.fillStyle = "rgba(86, 180, 233, 0.45)";
  mask.forEach((on, i) => on && pen.fillRect((i % width) * pixel, Math.floor(i / width) * pixel, pixel, pixel));
  pen.strokeStyle = erasing() ? "#ffffff" : "#ff9e1b";
  pen.lineWidth = 2;
  pen.setLineDash(erasing() ? [4, 4] : []);
  pen.beginPath();
  pen.arc((cursor.x + 0.5) * pixel, (cursor.y + 0.5) * pixel, radius() * pixel, 0, 2 * Math.PI);
  pen.stroke();
  pen.fillStyle = "#ffffff";
  pen.font = `${Math.round(board.width / 22)}px sans-serif`;
  pen.fillText("R", 8, board.width / 16);
  pen.fillText("L", board.width - board.width / 20, board.width / 16);
};

const remember = () => {
  before = [...before.slice(1 - MOST_STEPS_BACK), mask.slice()];
};

const dab = () => {
  const { width, height } = props.value;
  const r = radius();
  for (let y = Math.max(0, Math.ceil(cursor.y - r)); y <= Math.min(height - 1, cursor.y + r); y += 1)
    for (let x = Math.max(0, Math.ceil(cursor.x - r)); x <= Math.min(width - 1, cursor.x + r); x += 1)
      if ((x - cursor.x) ** 2 + (y - cursor.y) ** 2 <= r * r) mask[y * width + x] = erasing() ? 0 : 1;
  draw();
};

const send = () => trigger("painted", { slice, mask: mask.join("") });

const move = (event) => {
  const box = canvas().getBoundingClientRect();
  const { width, height } = props.value;
  cursor = {
    x: Math.min(width - 1, Math.max(0, Math.floor((width * (event.clientX - box.left)) / box.width))),
    y: Math.min(height - 1, Math.max(0, Math.floor((height * (event.clientY - box.top)) / box.height))),
  };
};

element.addEventListener("pointerdown", (event) => {
  if (event.target !== canvas() || !mask) return;
  event.target.setPointerCapture(event.pointerId);
  stroke = true;
  remember();
  move(event);
  dab();
});
element.addEventListener("pointermove", (event) => {
  if (event.target !== canvas() || !mask) return;
  move(event);
  if (stroke) dab();
  else draw();
});
const lift = () => {
  if (stroke) send();
  stroke = false;
};
element.addEventListener("pointerup", lift);
element.addEventListener("pointercancel", lift);

const STEPS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
element.addEventListener("keydown", (event) => {
  if (event.target !== canvas() || !mask) return;
  const { width, height } = props.value;
  if (STEPS[event.key]) {
    const [x, y] = STEPS[event.key].map((step) => step * (event.shiftKey ? 5 : 1));
    cursor = { x: Math.min(width - 1, Math.max(0, cursor.x + x)), y: Math.min(height - 1, Math.max(0, cursor.y + y)) };
    draw();
  } else if (event.key === " ") {
    remember();
    dab();
    send();
  } else return;
  event.preventDefault();
});

element.addEventListener("input", draw); // size of the brush, paint or erase
element.addEventListener("click", (event) => {
  if (!event.target.matches(".undo") || !before.length) return;
  mask = before.pop();
  draw();
  send();
});

const start = () => {
  if (!props.value || !props.value.mask) return;
  if (slice !== props.value.slice) {
    before = [];
    cursor = { x: Math.floor(props.value.width / 2), y: Math.floor(props.value.height / 2) };
  }
  slice = props.value.slice;
  mask = Array.from(props.value.mask, Number);
  picture = new Image();
  picture.onload = draw;
  picture.src = props.value.picture;
  draw();
};
watch("value", start);
start();
