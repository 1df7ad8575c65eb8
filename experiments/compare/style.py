"""The page's one style sheet: for screens by day and by night, for phones, and for paper."""

CSS = """
:root {
  color-scheme: light dark;
  --font: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  --paper: #ffffff; --ink: #1c2128; --muted: #59636f; --line: #dde1e7; --wash: #f5f7f9; --note: #fff6df;
  --note-edge: #d99a00; --link: #0a5fb4;
  --machine-0: #0072b2; --machine-1: #d55e00; --machine-2: #009e73; --machine-3: #b3578f; --machine-4: #a06f00;
  --machine-5: #3c8fc4;
}
@media (prefers-color-scheme: dark) { :root {
  --paper: #14171b; --ink: #e7eaee; --muted: #a2abb6; --line: #333a43; --wash: #1c2127; --note: #2b2516;
  --note-edge: #e0a92e; --link: #78b7f5;
  --machine-0: #56b4f0; --machine-1: #ff8f4d; --machine-2: #2fcb9b; --machine-3: #e79cc8; --machine-4: #e3b040;
  --machine-5: #9ad4f7;
} }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; scroll-behavior: smooth; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 1rem/1.6 var(--font); }
main, header, footer { max-width: 62rem; margin: 0 auto; padding: 0 1.5rem; }
header { padding-top: 4rem; }
h1 { font-size: 2.3rem; line-height: 1.15; letter-spacing: -0.02em; margin: 0 0 1rem; text-wrap: balance; }
h2 { font-size: 1.5rem; line-height: 1.25; letter-spacing: -0.01em; margin: 4.5rem 0 0.75rem; }
h3 { font-size: 1.1rem; margin: 3rem 0 0.5rem; }
p, li { max-width: 44rem; text-wrap: pretty; }
p { margin: 0 0 0.9rem; }
.lede { font-size: 1.2rem; line-height: 1.5; }
.said { font-size: 1.08rem; }
.muted, figcaption, footer { color: var(--muted); }
a { color: var(--link); text-underline-offset: 0.15em; }
a:focus-visible, summary:focus-visible, [tabindex]:focus-visible {
  outline: 3px solid var(--link); outline-offset: 3px; }
.skip { position: absolute; left: -999rem; }
.skip:focus { position: static; display: inline-block; margin: 1rem 1.5rem; }
nav { margin: 2.2rem 0 0; }
nav ul { list-style: none; display: flex; flex-wrap: wrap; gap: 0.2rem 1.4rem; padding: 0; margin: 0; }
.notes { background: var(--note); border-left: 4px solid var(--note-edge); border-radius: 0 0.4rem 0.4rem 0;
  padding: 1rem 1.4rem; margin: 2rem 0; }
.notes ul { margin: 0.4rem 0 0; padding-left: 1.1rem; }
.notes li { margin: 0.3rem 0; overflow-wrap: anywhere; }
.notes h2, .notes h3 { margin: 0; font-size: 1.05rem; }
figure { margin: 1.8rem 0 1rem; break-inside: avoid; }
.scroll { overflow-x: auto; }
figure svg { display: block; width: 100%; min-width: 40rem; height: auto; }
figure img { display: block; max-width: 100%; height: auto; background: #fff; border-radius: 0.3rem; }
figcaption { font-size: 0.88rem; margin-top: 0.5rem; }
table { border-collapse: collapse; font-size: 0.9rem; line-height: 1.4; margin: 0.6rem 0; min-width: 100%;
  font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--muted); padding: 0.4rem 0; }
th, td { padding: 0.42rem 1.1rem 0.42rem 0; border-bottom: 1px solid var(--line); text-align: left;
  vertical-align: top; }
th { font-weight: 600; }
thead th { color: var(--muted); font-weight: 500; vertical-align: bottom; border-bottom: 1.5px solid var(--muted); }
.number { text-align: right; white-space: nowrap; }
tbody th { font-weight: 500; }
th:last-child, td:last-child { padding-right: 0; }
.facts th:first-child { white-space: nowrap; }
.facts tbody th { color: var(--muted); padding-right: 1.6rem; }
.facts td { min-width: 9rem; overflow-wrap: anywhere; }
.results th, .results td { white-space: nowrap; padding-right: 0.65rem; }
details { margin: 0.8rem 0; }
summary { cursor: pointer; color: var(--link); width: fit-content; }
dt { font-weight: 600; margin-top: 0.9rem; }
dd { margin: 0.1rem 0 0; max-width: 44rem; }
footer { margin-top: 5rem; padding-top: 1.5rem; padding-bottom: 4rem; font-size: 0.9rem; }
@media (max-width: 40rem) {
  header { padding-top: 2.2rem; }
  h1 { font-size: 1.7rem; }
  h2 { margin-top: 3.2rem; }
}
@media print {
  :root { color-scheme: light; --paper: #fff; --ink: #000; --muted: #444; --line: #bbb; --wash: #fff; --note: #fff;
    --machine-0: #0072b2; --machine-1: #d55e00; --machine-2: #009e73; --machine-3: #b3578f; --machine-4: #a06f00;
    --machine-5: #3c8fc4; --link: #000; }
  body { font-size: 10pt; }
  main, header, footer { max-width: none; padding: 0; }
  nav, .skip, .download { display: none; }
  h2 { margin-top: 2rem; }
  h2, h3 { break-after: avoid; }
  figure svg { min-width: 0; }
  .scroll { overflow: visible; }
  table { font-size: 8pt; }
  tr { break-inside: avoid; }
}
"""
