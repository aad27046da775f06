// NiiVue: the script and the volumes are those of this server.
let viewer = null;

const address = (path) => new URL(`gradio_api/file=${path}`, document.baseURI).href;

const inWords = ({ mm, values }) => {
  const sides = ["RL", "AP", "SI"].map(([plus, minus], axis) => `${mm[axis] < 0 ? minus : plus} ${Math.abs(mm[axis]).toFixed(0)}`);
  const names = ["original", "counterfactual", "anomaly"];
  const seen = values.map((one, i) => `${names[i]} ${Number(one.value).toPrecision(3)}`);
  return `${sides.join(", ")} mm: ${seen.join(", ")}`;
};

const load = async () => {
  const value = props.value;
  if (!value || !value.script) return;
  const words = element.querySelector(".location");
  try {
    const { Niivue } = await import(address(value.script));
    viewer = new Niivue({
      isRadiologicalConvention: true,
      isOrientationTextVisible: true,
      showAllOrientationMarkers: true,
      isColorbar: true,
      multiplanarShowRender: 0,
      fontMinPx: 14,
      crosshairWidthUnit: "percent",
      crosshairWidth: 0.4,
      crosshairColor: [0.34, 0.71, 0.91, 1],
      fontColor: [1, 1, 1, 1],
      multiplanarPadPixels: 8,
      backColor: [0, 0, 0, 1],
      onLocationChange: (place) => { words.textContent = inWords(place); },
    });
    await viewer.attachToCanvas(element.querySelector("canvas"));
    await viewer.loadVolumes(value.layers.map(({ where, colorbar_visible: bar, ...layer }) => (
      { url: address(where), colorbarVisible: bar, ...layer }
    )));
    viewer.setSliceType(viewer.sliceTypeMultiplanar);
    viewer.scene.crosshairPos = viewer.mm2frac(value.peak);
    viewer.updateGLVolume();
    viewer.createOnLocationChange();
    element.dataset.loaded = "yes";
  } catch (error) {
    words.textContent = `The viewer could not be opened (${error.message}); it needs WebGL 2.`;
  }
};

element.addEventListener("input", (event) => {
  if (!viewer || !viewer.volumes.length) return;
  if (event.target.matches(".over")) viewer.setOpacity(2, Number(event.target.value) / 100);
  if (event.target.matches(".healthy")) viewer.setOpacity(1, event.target.checked ? 1 : 0);
});
watch("value", load);
load();
