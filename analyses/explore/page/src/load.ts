/** Where do the data come from? From scripts beside the page: one opened from disk may not fetch. */

import { useEffect, useState } from "preact/hooks";

declare global {
  var hookedOmni: { put(name: string, value: unknown): void };
}

const KEPT = 12;
const arrived = new Map<string, unknown>();
const requested = new Map<string, Promise<unknown>>();

globalThis.hookedOmni = { put: (name, value) => void arrived.set(name, value) };

/** The value that `data/<name>.js` puts. */
export function load<T>(name: string): Promise<T> {
  const known = requested.get(name);
  if (known) return known as Promise<T>;
  if (arrived.has(name)) return Promise.resolve(arrived.get(name) as T); // written into the page itself
  const promise = new Promise<unknown>((resolve, reject) => {
    const script = document.createElement("script");
    const file = `data/${name.split("/").map(encodeURIComponent).join("/")}.js`;
    script.src = file;
    script.onload = () => {
      script.remove();
      if (arrived.has(name)) resolve(arrived.get(name));
      else reject(new Error(`expected ${file} to hold ${name}, got another. Write the site again.`));
      arrived.delete(name);
    };
    script.onerror = () => {
      script.remove();
      requested.delete(name);
      reject(new Error(`expected ${file} beside this page, got none. Copy the whole folder of the site.`));
    };
    document.head.append(script);
  });
  requested.set(name, promise);
  const [oldest] = requested.keys();
  if (requested.size > KEPT && oldest) requested.delete(oldest);
  return promise as Promise<T>;
}

export interface Loaded<T> {
  value: T | null;
  error: string | null;
}

const NOTHING = { value: null, error: null };

/** What `work` promises for `key`, or why not; nothing for null. */
export function usePromise<T>(key: string | null, work: (key: string) => Promise<T>): Loaded<T> {
  const [state, setState] = useState<{ key: string | null } & Loaded<T>>({ key: null, ...NOTHING });
  useEffect(() => {
    if (key === null) return;
    let wanted = true;
    const settle = (value: T | null, error: string | null) =>
      wanted && setState({ key, value, error });
    work(key).then(
      (value) => settle(value, null),
      (error: Error) => settle(null, error.message),
    );
    return () => void (wanted = false);
  }, [key]);
  return state.key === key ? state : NOTHING;
}

export const useLoaded = <T,>(name: string | null): Loaded<T> => usePromise<T>(name, load);
