"""How the page looks: a theme of the system's own fonts, style sheet and the few lines of script. Nothing comes from
another host."""

from __future__ import annotations

from gradio import themes

THEME = themes.Base(
    primary_hue=themes.colors.teal,
    neutral_hue=themes.colors.slate,
    radius_size=themes.sizes.radius_md,
    font=("system-ui", "sans-serif"),
    font_mono=("ui-monospace", "monospace"),
)

CSS = """
.gradio-container { max-width: 1600px !important; margin: 0 auto; }
.gradio-container main { width: 100%; max-width: none; }
.top h1 { margin: 0; font-size: 1.4rem; }
.top p, .quiet { color: var(--body-text-color-subdued); margin: .2rem 0; }
.alert { border-left: 4px solid #dc2626; padding: .5rem .8rem;
  background: color-mix(in srgb, #dc2626 12%, transparent); }
.note { border-left: 4px solid var(--border-color-primary); padding: .3rem .8rem; }
button:focus-visible, a:focus-visible, summary:focus-visible, input:focus-visible, textarea:focus-visible,
[tabindex]:focus-visible { outline: 3px solid var(--color-accent) !important; outline-offset: 2px; }
.badge { display: inline-block; padding: 0 .5em; border-radius: 1em; font-size: .75rem; font-weight: 600;
  line-height: 1.6; vertical-align: middle; background: #e2e8f0; color: #1e293b; white-space: nowrap; }
.badge.running, .badge.cancelling { background: #fde68a; color: #713f12; }
.badge.done { background: #bbf7d0; color: #14532d; }
.badge.failed { background: #fecaca; color: #7f1d1d; }
ul.jobs, ul.cards, ul.gets { list-style: none; margin: 0; padding: 0; }
.job { display: grid; grid-template-columns: 1fr auto; gap: .3rem .5rem; align-items: center; padding: .4rem 0;
  border-bottom: 1px solid var(--border-color-primary); }
.job progress { grid-column: 1 / -1; }
.job.chosen { box-shadow: inset 3px 0 var(--color-accent); padding-left: .5rem; }
.job .open { text-align: left; min-width: 0; overflow-wrap: anywhere; padding: .3rem;
  border-radius: var(--radius-md); }
.job .stop, .gets .get { padding: .5rem .9rem; border: 1px solid var(--border-color-primary); min-height: 2.6rem;
  border-radius: var(--radius-md); background: var(--button-secondary-background-fill);
  color: var(--body-text-color); }
.job .open:hover, .job .stop:hover, .gets .get:hover { background: var(--background-fill-secondary); }
progress { appearance: none; width: 100%; height: .4rem; border: 0; border-radius: 1em; overflow: hidden;
  background: var(--border-color-primary); }
progress::-webkit-progress-bar { background: var(--border-color-primary); }
progress::-webkit-progress-value { background: var(--color-accent); transition: width .3s; }
progress::-moz-progress-bar { background: var(--color-accent); }
.job button, button.card { font-weight: 400 !important; font-size: .95rem; line-height: 1.35; }
.job .open { background: none !important; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: .7rem; }
.cards.small { grid-template-columns: repeat(auto-fill, minmax(120px, 1fr)); }
.card { display: flex; flex-direction: column; width: 100%; text-align: left; gap: .2rem; padding: .4rem; height: 100%;
  border: 1px solid var(--border-color-primary); border-radius: var(--radius-md);
  background: var(--background-fill-primary); }
.card:hover { background: var(--background-fill-secondary); }
.card[aria-current] { outline: 3px solid var(--color-accent); }
.card img, .card .none { width: 100%; aspect-ratio: 1; object-fit: contain; border-radius: var(--radius-sm); }
.card .none { display: grid; place-items: center; background: var(--background-fill-secondary);
  color: var(--body-text-color-subdued); font-size: .8rem; }
.card .title { font-weight: 600; overflow-wrap: anywhere; display: -webkit-box; -webkit-line-clamp: 2;
  -webkit-box-orient: vertical; overflow: hidden; }
.card .line { font-size: .8rem; color: var(--body-text-color-subdued); }
h2.name { margin: 0; font-size: 1.2rem; overflow-wrap: anywhere; }
.looks { display: flex; flex-wrap: wrap; gap: .8rem; }
.looks figure { margin: 0; flex: 1 1 260px; min-width: 0; }
.looks figure.sheet { flex: 2 1 340px; }
.looks figure.sheet.narrow { flex: 1 1 200px; max-width: 420px; }
.looks img, .looks video { display: block; width: 100%; height: auto; border-radius: var(--radius-md); }
.looks .turn img, .looks .turn video { max-width: 420px; }
.looks .sheet img { width: auto; max-width: 100%; max-height: 420px; }
figcaption { font-size: .85rem; color: var(--body-text-color-subdued); margin-top: .2rem; }
table.facts { border-collapse: collapse; margin: .6rem 0; max-width: 100%; }
table.facts caption { text-align: left; font-weight: 600; white-space: nowrap; }
table.facts, table.facts tr, table.facts th, table.facts td { border: 0 !important; }
table.facts th, table.facts td { text-align: left; padding: .15rem 1rem .15rem 0 !important; font-weight: 400; }
table.facts td { overflow-wrap: anywhere; }
table.facts th { color: var(--body-text-color-subdued); }
.gets { display: flex; flex-wrap: wrap; gap: .5rem; }
.gets .get { display: inline-block; text-decoration: none; }
.uploaded { display: flex; flex-wrap: wrap; gap: .5rem; }
.uploaded img { height: 96px; border-radius: var(--radius-sm); }
.turn video { width: 100%; max-width: 460px; display: block; border-radius: var(--radius-md); }
.turn { margin: 0; }
#model, #turn { flex: 1 1 260px !important; min-width: min(260px, 100%) !important; }
.side { flex: 1 1 320px !important; min-width: min(320px, 100%) !important; }
.verbs button { min-width: 0 !important; flex: 1 1 auto !important; min-height: 2.6rem; }
footer { flex-wrap: wrap; }
@media (max-width: 700px) {
  .gradio-container { padding: .5rem !important; }
  .cards { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .looks figure, .looks figure.sheet { flex-basis: 100%; }
  .looks .turn img, .looks .turn video { max-width: none; }
}
"""

# Gradio confines CSS to its own container; these rules hang on the body's class. A browser without WebGL would show an
# empty viewer, so there the turntable stands alone.
HEAD = """<style>
.comparing #panel, .comparing #advanced, .listing #advanced, .without-webgl #model { display: none !important; }
</style><script>
(() => {
  const c = document.createElement('canvas');
  const add = () => document.body.classList.add('without-webgl');
  if (!c.getContext('webgl2') && !c.getContext('webgl')) {
    document.body ? add() : document.addEventListener('DOMContentLoaded', add);
  }
})();
</script>"""

# which tab is open decides, by a class, what stands beside it
TAB = "() => {{ document.body.classList.remove('comparing', 'listing'); {add} }}"

# the address names the open run, so that a reload opens it again
ADDRESS = """(run) => {
  const u = new URL(window.location);
  run ? u.searchParams.set('run', run) : u.searchParams.delete('run');
  window.history.replaceState(null, '', u);
}"""

SHOW_PANEL = """() => {
  if (window.innerWidth < 900) document.querySelector('#panel')?.scrollIntoView({behavior: 'smooth'});
}"""

# a click on [data-do] asks the server; focus survives a list that is drawn anew
BUTTONS = """
let last = null;
element.addEventListener('click', (e) => {
  const b = e.target.closest('[data-do]');
  if (b) trigger('click', {what: b.dataset.do, run: b.dataset.run});
});
element.addEventListener('focusin', (e) => { last = e.target.dataset ? e.target.dataset.key : null; });
element.addEventListener('focusout', (e) => { if (e.relatedTarget) last = null; });
watch('value', () => {
  if (!last || document.activeElement !== document.body) return;
  const b = element.querySelector('[data-key="' + CSS.escape(last) + '"]');
  if (b) b.focus({preventScroll: true});
});
"""

RANDOM = "() => Math.floor(Math.random() * 1000000)"


def tab_class(name: str = "") -> str:
    """Script for a tab: the page's body gets the class `name`."""
    return TAB.format(add=f"document.body.classList.add('{name}');" if name else "")
