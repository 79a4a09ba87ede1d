/** Which words can be read off the sound, layer by layer? */

import { useState } from "preact/hooks";
import type { LensCell, LensGrid } from "./data";
import { Pick, Save } from "./parts";
import { digits } from "./scale";
import { visible } from "./tokens";

const found = (cell: LensCell, text: string): boolean =>
  text !== "" && [cell.text, ...cell.others].some((one) => one.toLowerCase().includes(text));

const sure = (cell: LensCell): number => (cell.logprob === null ? 0 : Math.exp(cell.logprob));

export function Lens({ grids }: { grids: LensGrid[] }) {
  const [name, setName] = useState(grids[0]!.lens);
  const [search, setSearch] = useState("");
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
      <Save name={`logit lens ${grid.lens}`} header={["layer", "second", "token", "logprob", "hit", "others"]} rows={rows} />
    </div>
  );
}
