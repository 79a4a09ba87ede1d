/** Rows to sort, with numbers right and missing ones last. */

import type { ComponentChildren } from "preact";
import { Save } from "./parts";
import { digits } from "./scale";

export interface Column<Row> {
  name: string;
  value(row: Row): string | number | null;
  show?(row: Row): ComponentChildren;
}

/** By one column; "-name" starts with the largest. Rows without a value come last either way. */
export function sorted<Row>(rows: Row[], columns: Column<Row>[], by: string): Row[] {
  const down = by.startsWith("-");
  const column = columns.find((one) => one.name === by.replace(/^-/, ""));
  if (!column) return rows;
  const keyed = rows.map((row) => [column.value(row), row] as const);
  return keyed
    .sort(([a], [b]) => {
      if (a === null || b === null) return Number(a === null) - Number(b === null);
      const order = typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
      return down ? -order : order;
    })
    .map(([, row]) => row);
}

interface TableProps<Row> {
  name: string;
  rows: Row[];
  columns: Column<Row>[];
  by: string;
  onSort(by: string): void;
}

export function Table<Row>({ name, rows, columns, by, onSort }: TableProps<Row>) {
  const down = by.startsWith("-");
  return (
    <>
      <div class="scroll samples" tabIndex={0} role="region" aria-label={name}>
        <table>
          <thead>
            <tr>
              {columns.map((column) => {
                const here = by.replace(/^-/, "") === column.name;
                return (
                  <th scope="col" aria-sort={here ? (down ? "descending" : "ascending") : "none"}>
                    {/* The largest first: that is what one looks for. */}
                    <button type="button" onClick={() => onSort(here && down ? column.name : `-${column.name}`)}>
                      {column.name} <span aria-hidden="true">{here ? (down ? "▼" : "▲") : ""}</span>
                    </button>
                  </th>
                );
              })}
            </tr>
          </thead>
          <tbody>
            {rows.map((row) => (
              <tr>
                {columns.map((column, i) => {
                  const value = column.value(row);
                  const cell = column.show ? column.show(row) : typeof value === "number" || value === null ? digits(value) : <span class="text" dir="auto">{value}</span>;
                  return i ? <td class={typeof value === "string" || column.show ? "" : "number"}>{cell}</td> : <th scope="row">{cell}</th>;
                })}
              </tr>
            ))}
          </tbody>
        </table>
      </div>
      <Save name={name} header={columns.map((one) => one.name)} rows={() => rows.map((row) => columns.map((one) => one.value(row)))} />
    </>
  );
}
