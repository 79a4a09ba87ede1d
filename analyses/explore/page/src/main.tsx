/** The page: which study, which part of it, and the keys. */

import { render } from "preact";
import { useEffect } from "preact/hooks";
import { player } from "./clip";
import { Compare } from "./compare";
import type { Study } from "./data";
import { useLoaded } from "./load";
import { Overview } from "./overview";
import { Pick } from "./parts";
import { address, useRoute } from "./route";
import { SamplePage } from "./sample";

const FIELDS = "input, select, textarea, summary, button, [role=button], video, audio, a";

function keys(event: KeyboardEvent): void {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const target = event.target as Element;
  const typing = target.matches("input, select, textarea");
  if (event.key === "/" && !typing) {
    document.querySelector<HTMLInputElement>("[data-search]")?.focus();
  } else if (event.key === " " && !target.matches(FIELDS)) {
    const media = player();
    if (!media) return;
    if (media.paused) void media.play().catch(() => undefined);
    else media.pause();
  } else if ((event.key === "ArrowLeft" || event.key === "ArrowRight") && !typing && !target.matches("video, audio, .scroll")) {
    document.querySelector<HTMLElement>(`a[rel=${event.key === "ArrowLeft" ? "prev" : "next"}]`)?.click();
    return;
  } else if ((event.key === "ArrowUp" || event.key === "ArrowDown") && target.matches("tbody th a, [data-search]")) {
    const links = [...document.querySelectorAll<HTMLElement>("tbody th a")];
    links[links.indexOf(target as HTMLElement) + (event.key === "ArrowDown" ? 1 : -1)]?.focus();
  } else return;
  event.preventDefault();
}

function App() {
  const route = useRoute();
  const { params } = route;
  const main = useLoaded<Study>("0/study");
  const count = main.value?.others.length ?? 1;
  const n = /^\d{1,4}$/.test(params.study ?? "") && Number(params.study) < count ? String(Number(params.study)) : "0";
  const study = useLoaded<Study>(`${n}/study`);
  useEffect(() => {
    addEventListener("keydown", keys);
    return () => removeEventListener("keydown", keys);
  }, []);
  useEffect(() => scrollTo(0, 0), [route.page, route.file, n]);
  useEffect(() => {
    const sample = study.value?.samples.find((row) => row.file === route.file);
    document.title = [sample?.id.slice(0, 80), study.value?.title].filter(Boolean).join(" – ") || "Study";
  }, [study.value, route.file]);
  const kept: Record<string, string> = params.study ? { study: params.study } : {};
  const back = route.page === "sample" ? { ...params, token: "", question: "" } : kept;
  const error = main.error ?? study.error;
  return (
    <>
      <nav class="pages" aria-label="Pages">
        <a href={address({ page: "overview", file: "", params: back })} aria-current={route.page === "overview" ? "page" : undefined}>Overview</a>
        <a href={address({ page: "compare", file: "", params: kept })} aria-current={route.page === "compare" ? "page" : undefined}>Compare</a>
        {count > 1 && route.page !== "compare" && (
          <Pick label="Study" value={n} options={main.value!.others.map((one, i): [string, string] => [String(i), one.name])}
            onPick={(picked) => (location.hash = address({ page: "overview", file: "", params: { study: picked } }))} />
        )}
        <span class="keys muted"><kbd>/</kbd> search <kbd>←</kbd> <kbd>→</kbd> samples, tokens <kbd>space</kbd> play</span>
      </nav>
      <main>
        {error && <p class="absent" role="alert">{error}</p>}
        {study.value && route.page === "overview" && <Overview key={n} study={study.value} params={params} />}
        {study.value && route.page === "sample" && <SamplePage key={n} study={study.value} n={n} file={route.file} params={params} />}
        {main.value && route.page === "compare" && <Compare main={main.value} params={params} />}
        {!error && !study.value && <p class="muted">Reading the study…</p>}
      </main>
    </>
  );
}

const start = () => render(<App />, document.getElementById("page")!);
// Where data are written into the page, they stand after this script.
if (document.readyState === "loading") addEventListener("DOMContentLoaded", start);
else start();
