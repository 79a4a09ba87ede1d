/** How does what is seen leave the page? As SVG, PNG or CSV, drawn in the light scheme. */

const DRAWN = [
  "fill",
  "fill-opacity",
  "stroke",
  "stroke-width",
  "stroke-dasharray",
  "stroke-opacity",
  "opacity",
  "font-family",
  "font-size",
  "font-weight",
  "text-anchor",
  "image-rendering",
];

function hand(name: string, blob: Blob): void {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** The picture as a file of its own: the page's styles written into it, on white. */
function alone(svg: SVGSVGElement): { text: string; width: number; height: number } {
  const root = document.documentElement;
  root.style.colorScheme = "light";
  const copy = svg.cloneNode(true) as SVGSVGElement;
  const originals = [svg, ...svg.querySelectorAll("*")];
  [copy, ...copy.querySelectorAll("*")].forEach((node, i) => {
    const style = getComputedStyle(originals[i]!);
    for (const name of DRAWN) node.setAttribute(name, style.getPropertyValue(name));
    for (const own of ["style", "tabindex"]) node.removeAttribute(own);
  });
  root.style.colorScheme = "";
  copy.querySelectorAll(".playhead, .cursor").forEach((node) => node.remove());
  const box = svg.viewBox.baseVal;
  const scale = Math.max(1, svg.clientWidth / box.width); // no smaller than it is seen
  const [width, height] = [Math.round(box.width * scale), Math.round(box.height * scale)];
  copy.setAttribute("xmlns", "http://www.w3.org/2000/svg");
  copy.setAttribute("width", String(width));
  copy.setAttribute("height", String(height));
  const ground = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  for (const [name, value] of Object.entries({ width: box.width, height: box.height, fill: "#fff" }))
    ground.setAttribute(name, String(value));
  copy.prepend(ground);
  return { text: new XMLSerializer().serializeToString(copy), width, height };
}

export function saveSvg(name: string, svg: SVGSVGElement): void {
  hand(`${name}.svg`, new Blob([alone(svg).text], { type: "image/svg+xml" }));
}

export function savePng(name: string, svg: SVGSVGElement, scale = 2): void {
  const { text, width, height } = alone(svg);
  const image = new Image();
  image.onload = () => {
    const canvas = document.createElement("canvas");
    canvas.width = width * scale;
    canvas.height = height * scale;
    canvas.getContext("2d")!.drawImage(image, 0, 0, canvas.width, canvas.height);
    canvas.toBlob((blob) => blob && hand(`${name}.png`, blob));
  };
  image.src = `data:image/svg+xml;charset=utf-8,${encodeURIComponent(text)}`;
}

export type Field = string | number | boolean | null | undefined;

const quoted = (field: Field): string => {
  const text = field === null || field === undefined ? "" : String(field);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
};

export function saveCsv(name: string, header: string[], rows: Field[][]): void {
  const lines = [header, ...rows].map((row) => row.map(quoted).join(","));
  hand(`${name}.csv`, new Blob(["\ufeff", lines.join("\r\n"), "\r\n"], { type: "text/csv" }));
}
