/** Which page is open, and how? Everything a colleague should see too stands in the address. */

import { useEffect, useState } from "preact/hooks";

export interface Route {
  page: "overview" | "sample" | "compare";
  file: string;
  params: Record<string, string>;
}

export function parse(hash: string): Route {
  const [path = "", query = ""] = hash.replace(/^#\/?/, "").split("?", 2);
  const [page, file = ""] = path.split("/", 2);
  const params = Object.fromEntries(new URLSearchParams(query));
  return { page: page === "sample" || page === "compare" ? page : "overview", file, params };
}

/** An address; params without a value are left out. */
export function address({ page, file, params }: Route): string {
  const kept = Object.entries(params).filter(([, value]) => value !== "");
  const query = new URLSearchParams(kept).toString();
  const path = page === "overview" ? "" : file ? `${page}/${file}` : page;
  return `#/${path}${query ? `?${query}` : ""}`;
}

/** Changes params of the open page, without a step that "back" would have to undo. */
export function change(params: Record<string, string>): void {
  const route = parse(location.hash);
  location.replace(address({ ...route, params: { ...route.params, ...params } }));
}

export function useRoute(): Route {
  const [hash, setHash] = useState(location.hash);
  useEffect(() => {
    const follow = () => setHash(location.hash);
    addEventListener("hashchange", follow);
    return () => removeEventListener("hashchange", follow);
  }, []);
  return parse(hash);
}

/** "3-7" or "3" as a range within 0..last, both ends included; null for anything else. */
export function range(text: string | undefined, last: number): [number, number] | null {
  const match = /^(\d{1,6})(?:-(\d{1,6}))?$/.exec(text ?? "");
  if (!match || last < 0) return null;
  const from = Math.min(Number(match[1]), last);
  const to = Math.min(Number(match[2] ?? match[1]), last);
  return from <= to ? [from, to] : [to, from];
}

export const spelled = ([from, to]: [number, number]): string =>
  from === to ? String(from) : `${from}-${to}`;
