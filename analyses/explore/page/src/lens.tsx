/** Which words can be read off the sound, layer by layer? */

import { useRef, useState } from "preact/hooks";
import type { LensCell, LensGrid } from "./data";
import { Pick, Save } from "./parts";
import { digits } from "./scale";
import { visible } from "./tokens";

const found = (cell: LensCell, text: string): boolean =>
  text !== "" && [cell.text, ...cell.others].some((one) => one.toLowerCase().includes(text));

const sure = (cell: LensCell): number => (cell.logprob === null ? 0 : Math.exp(cell.logprob));

const [WIDE, HIGH] = [92, 20];

/** The grid as a figure to save; what is read and searched is the table. */
function Drawn({ grid, picture }: { grid: LensGrid; picture: { current: SVGSVGElement | null } }) {
  const rows = [...grid.cells.entries()].reverse();
  return (
    <svg class="aside" aria-hidden="true" ref={picture} viewBox={`0 0 ${50 + grid.seconds.length * WIDE} ${(rows.length + 1) * HIGH}`}>
      {grid.seconds.map((second, s) => <text x={50 + s * WIDE} y={14}>{digits(second)} s</text>)}
      {rows.map(([l, row], y) => (
        <g transform={`translate(50,${(y + 1) * HIGH})`}>
          <text x={-10} y={14} text-anchor="end">{grid.layers[l]}</text>
          {row.map((one, s) => (
            <g transform={`translate(${s * WIDE},0)`}>
              <rect class={one.hit ? "cell hit" : "cell"} width={WIDE - 2} height={HIGH - 2} fill-opacity={0.6 * sure(one)} />
              <text x={4} y={14}>{(one.hit ? "● " : "") + [...visible(one.text)].slice(0, 12).join("")}</text>
            </g>
          ))}
        </g>
      ))}
    </svg>
  );
}

export function Lens({ grids }: { grids: LensGrid[] }) {
  const [name, setName] = useState(grids[0]!.lens);
  const [search, setSearch] = useState("");
  const picture = useRef<SVGSVGElement>(null);
  const [over, setOver] = useState<[number, number] | null>(null);
  const grid = grids.find((one) => one.lens === name) ?? grids[0]!;
  const text = search.trim().toLowerCase();
  const order = [...grid.layers.keys()].reverse();
  const count = grid.cells.flat().filter((cell) => found(cell, text)).length;
  const cell = over && grid.cells[over[0]]?.[over[1]];
  const rows = () =>
    grid.cells.flatMap((row, l) => row.map((one, s) => [grid.layers[l], grid.seconds[s], one.text, one.logprob, one.hit, one.others.join(" | ")]));
  return (
    <div class="lens">
      <div class="controls">
        <label class="control">Search the lens <input type="search" data-search value={search} onInput={(event) => setSearch(event.currentTarget.value)} /></label>
        {grids.length > 1 && <Pick label="Lens" value={name} options={grids.map((one) => one.lens)} onPick={setName} />}
        <output>{text && `${count} of ${grid.cells.flat().length} cells`}</output>
      </div>
      <div class="scroll grid" tabIndex={0} role="region" aria-label="Logit lens, layer by second">
        <table onPointerLeave={() => setOver(null)}>
          <thead>
            <tr><th scope="col">layer</th>{grid.seconds.map((second) => <th scope="col">{digits(second)} s</th>)}</tr>
          </thead>
          <tbody>
            {order.map((l) => (
              <tr>
                <th scope="row">{grid.layers[l]}</th>
                {grid.cells[l]!.map((one, s) => (
                  <td class={[one.hit && "hit", found(one, text) && "found"].filter(Boolean).join(" ")} onPointerEnter={() => setOver([l, s])}
                    style={{ "--sure": `${Math.round(60 * sure(one))}%` }}>
                    <span class="piece" dir="auto">{one.hit && "● "}{visible(one.text)}</span>
                  </td>
                ))}
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      <p class="note details">
        {cell ? (
          <>Layer {grid.layers[over[0]]}, {digits(grid.seconds[over[1]])} s: <b class="piece" dir="auto">{visible(cell.text)}</b> {digits(100 * sure(cell))} %{cell.hit && ", names an event that sounds"}; then {cell.others.map((one) => <><span class="piece" dir="auto">{visible(one)}</span> </>)}</>
        ) : (
          <>● names an event that sounds. A stronger ground is a higher probability. Point at a cell for the tokens after it.</>
        )}
      </p>
      <Drawn grid={grid} picture={picture} />
      <Save name={`logit lens ${grid.lens}`} svg={picture} header={["layer", "second", "token", "logprob", "hit", "others"]} rows={rows} />
    </div>
  );
}
