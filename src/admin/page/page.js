// The page is whole without this. It keeps the figures fresh by the API, draws what has been, and sends changes.
// What comes from settings is only ever set as text.
'use strict';

const INTERVAL = 2_000; // ms between two questions
const HISTORY = 600_000; // ms that charts go back
const WINDOW = 60_000; // ms over which shares are taken
const LINES = 12; // as many lines as colors; of more the highest, the mean and the lowest are drawn
const SVG = 'http://www.w3.org/2000/svg';

const $ = (selector, within = document) => within.querySelector(selector);
const all = (selector, within = document) => [...within.querySelectorAll(selector)];

/** An element with properties, attributes (in `attrs`) and children. */
function element(name, properties = {}, ...children) {
  const made = properties.svg ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(properties)) {
    if (key === 'attrs' || key === 'svg') for (const [of, is] of Object.entries(value)) made.setAttribute(of, is);
    else made[key] = value;
  }
  made.append(...children);
  return made;
}

/** Writes only what differs: a row of 500 that stays as it is costs nothing. */
function write(place, text) {
  if (place && place.textContent !== text) place.textContent = text;
}

function mark(place, name, value) {
  if (place && place.getAttribute(name) !== String(value)) place.setAttribute(name, value);
}

// --- figures as the server writes them -----------------------------------------------------------------------

const count = (number) => String(number).replace(/\B(?=(\d{3})+$)/g, '\u202f');
const percent = (part) => (part === null ? '–' : `${(part * 100).toFixed(1)}\u202f%`);
const ratio = (number) => (number === null ? '–' : number.toFixed(3));
const loadText = (load) => (!load ? '–' : load.capacity === null ? load.level.toFixed(1) : percent(load.utilization));
const rate = (number) => (number >= 100 ? count(Math.round(number)) : number.toFixed(1));
const countdown = (seconds) => [seconds >= 60 ? `${Math.floor(seconds / 60)} min` : '', seconds % 60 || seconds < 60 ? `${seconds % 60} s` : ''].join(' ').trim();
const sum = (numbers) => numbers.reduce((one, other) => one + other, 0);

// --- what has been -------------------------------------------------------------------------------------------

/** The samples of one pool, oldest first. */
class History {
  samples = [];

  add(pool, time) {
    const last = this.samples.at(-1);
    const { picked, pinned, reassigned } = pool.redirects;
    const ids = pool.backends.map((backend) => backend.id).join(' ');
    // Another process, or other backends: what was counted before is no beginning of this.
    if (last && (last.ids !== ids || picked < last.picked || pinned < last.pinned)) this.samples = [];
    const sample = {
      time, ids, picked, pinned, reassigned,
      visitors: pool.backends.map(({ redirects }) => redirects.picked + redirects.pinned + redirects.reassigned),
      imbalance: new Map(pool.strategies.map(({ name, dispatch_imbalance: of }) => [name, of?.highest_over_mean])),
      loadImbalance: new Map(pool.strategies.map(({ name, load_imbalance: of }) => [name, of?.highest_over_mean])),
      loads: pool.backends.map(({ load }) => load?.utilization ?? null),
    };
    this.samples.push(sample);
    while (this.samples[0].time < time - HISTORY) this.samples.shift();
    Object.assign(sample, { shares: this.shares(sample), rates: this.rates(sample) });
    return sample;
  }

  /** What part of the visitors of the last minute each backend got; null where there were none. */
  shares({ time, visitors }) {
    const before = this.samples.find((earlier) => earlier.time >= time - WINDOW);
    const lately = visitors.map((number, index) => number - before.visitors[index]);
    const total = sum(lately);
    return total > 0 ? lately.map((number) => number / total) : null;
  }

  /** Visitors a second since the sample before. */
  rates(sample) {
    const before = this.samples.at(-2);
    if (!before) return null;
    const of = (name) => (sample[name] - before[name]) / ((sample.time - before.time) / 1000);
    return { picked: of('picked') + of('reassigned'), pinned: of('pinned') };
  }

  /** A series of what `of` finds in each sample. */
  series(name, of) {
    const points = this.samples.flatMap((sample) => {
      const value = of(sample);
      return value === null || value === undefined ? [] : [[sample.time, value]];
    });
    return { name, points };
  }
}

// --- charts --------------------------------------------------------------------------------------------------

/** A number at or above `value` that a scale may end at. */
function roundUp(value) {
  const step = 10 ** Math.floor(Math.log10(value));
  return [1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10].map((factor) => factor * step).find((end) => end >= value * 0.999);
}

/** A line chart of the last minutes, with the present values in its legend. */
class Chart {
  /** `from`: where the scale begins; `due`: a value to mark; `least`: the least length of the scale. */
  constructor(title, hint, { format, from = 0, due = null, least = 1 }) {
    Object.assign(this, { title, format, from, due, least });
    this.drawing = element('svg', { svg: { role: 'img' } });
    this.legend = element('ul', { className: 'legend' });
    const heading = element('h3', {}, title, element('small', { textContent: hint }));
    this.figure = element('figure', { className: 'chart' }, heading, this.drawing, this.legend);
  }

  draw(series, now, span) {
    const { width, height } = this.drawing.getBoundingClientRect();
    if (width === 0) return;
    const bottom = height - 16;
    const highest = Math.max(0, ...series.flatMap((one) => one.points.map((point) => point[1])));
    const to = this.from + roundUp(Math.max(highest - this.from, this.least));
    const x = (time) => width - ((now - time) / span) * width;
    const y = (value) => bottom - ((Math.max(value, this.from) - this.from) / (to - this.from)) * (bottom - 6);
    const parts = [];
    for (const value of [this.from, (this.from + to) / 2, to]) {
      const at = Math.round(y(value)) + 0.5;
      parts.push(element('path', { svg: { class: 'grid', d: `M0 ${at}H${width}` } }));
      const label = element('text', { svg: { x: 0, y: at + 12 } }, this.format(value));
      if (value !== this.from) parts.push(label);
    }
    if (this.due !== null) parts.push(element('path', { svg: { class: 'due', d: `M0 ${y(this.due)}H${width}` } }));
    for (const [words, anchor, at] of [[`${Math.round(span / 60_000)} min ago`, 'start', 0], ['now', 'end', width]]) {
      parts.push(element('text', { svg: { x: at, y: height - 3, 'text-anchor': anchor } }, words));
    }
    series.forEach((one, index) => {
      const d = one.points.map(([time, value], at) => `${at ? 'L' : 'M'}${x(time).toFixed(1)} ${y(value).toFixed(1)}`);
      parts.push(element('path', { svg: { class: 'line', 'data-series': index, d: d.join('') } }));
    });
    this.drawing.setAttribute('viewBox', `0 0 ${width} ${height}`);
    this.drawing.replaceChildren(...parts);
    this.tell(series);
  }

  /** The present values, for the eye in the legend and for a screen reader in the drawing's name. */
  tell(series) {
    while (this.legend.children.length > series.length) this.legend.lastChild.remove();
    while (this.legend.children.length < series.length) {
      const dash = element('i', { attrs: { 'data-series': this.legend.children.length } });
      this.legend.append(element('li', {}, dash, element('span'), element('b')));
    }
    const present = series.map((one) => [one.name, one.points.length ? this.format(one.points.at(-1)[1]) : '–']);
    present.forEach(([name, value], index) => {
      const [, label, figure] = this.legend.children[index].children;
      write(label, name);
      write(figure, value);
    });
    mark(this.drawing, 'aria-label', `${this.title}: ${present.map((pair) => pair.join(' ')).join(', ')}`);
  }
}

/** One line for each backend, or what can be said of more than there are colors. */
function byBackend(history, pool, of) {
  if (pool.backends.length <= LINES) {
    return pool.backends.map((backend, index) => history.series(backend.id, (sample) => of(sample)?.[index]));
  }
  const over = (name, what) => history.series(name, (sample) => {
    const values = of(sample)?.filter((value) => value !== null);
    return values?.length ? what(values) : null;
  });
  return [
    over('highest', (values) => Math.max(...values)),
    over('mean', (values) => sum(values) / values.length),
    over('lowest', (values) => Math.min(...values)),
  ];
}

// --- a pool --------------------------------------------------------------------------------------------------

/** A pool's section, its history and its charts. */
class Section {
  history = new History();
  charts = null;

  /** What is drawn of a pool, in this order: a chart, and what gives its series. */
  static charts(pool) {
    const uneven = { format: ratio, from: 1, due: 1, least: 0.05 };
    const byStrategy = (of) => (history, { strategies }) =>
      strategies.map(({ name }) => history.series(name, (sample) => sample[of].get(name)));
    const visitors = (history) => [
      history.series('new', (sample) => sample.rates?.picked),
      history.series('pinned', (sample) => sample.rates?.pinned),
    ];
    const isPart = pool.backends.every(({ load }) => !load || load.capacity !== null);
    return [
      [new Chart('Visitors', 'a second', { format: rate }), visitors],
      [new Chart('Dispatch imbalance', 'highest / mean for the weights, lately', uneven), byStrategy('imbalance')],
      ...(pool.reports_load ? [
        [new Chart('Load imbalance', 'highest / mean; of shadows as modeled', uneven), byStrategy('loadImbalance')],
        [new Chart('Load', isPart ? 'estimated, of capacity' : 'estimated, for the weights', { format: isPart ? percent : rate, least: isPart ? 0.1 : 1 }),
          (history, of) => byBackend(history, of, (sample) => sample.loads)],
      ] : [
        [new Chart('Share of visitors', 'last minute', { format: percent, least: 0.1 }),
          (history, of) => byBackend(history, of, (sample) => sample.shares)],
      ]),
    ];
  }

  /** Takes what the server rendered for this pool as the place to write to. */
  adopt(place, pool) {
    this.place = place;
    this.pool = pool;
    // A pool that begins to report has other charts; what was drawn before is in the history.
    if (this.reports !== pool.reports_load) this.charts = Section.charts(pool);
    this.reports = pool.reports_load;
    this.rows = new Map(all('[data-backend]', place).map((row) => [row.dataset.backend, row]));
    this.strategies = new Map(all('[data-strategy]', place).map((row) => [row.dataset.strategy, row]));
    $('.charts', place).replaceChildren(...this.charts.map(([chart]) => chart.figure));
    addControls(this);
  }

  show(pool, time) {
    this.pool = pool;
    const { shares } = this.history.add(pool, time);
    for (const name of ['picked', 'pinned', 'reassigned']) {
      write($(`[data-total=${name}]`, this.place), count(pool.redirects[name]));
    }
    write($('[data-total=local_traffic_ratio]', this.place), percent(pool.local_traffic_ratio));
    for (const strategy of pool.strategies) this.showStrategy(strategy);
    write($('[data-window]', this.place), shares ? 'the last minute' : 'since the start');
    pool.backends.forEach((backend, index) => this.showBackend(backend, shares ? shares[index] : backend.dispatch_share));
  }

  showStrategy(strategy) {
    const row = this.strategies.get(strategy.name);
    const figure = (name, text) => row && write($(`[data-figure=${name}]`, row), text);
    figure('dispatches', count(sum(strategy.dispatches)));
    for (const name of ['highest_over_mean', 'variation', 'jain']) {
      figure(name, ratio(strategy.dispatch_imbalance?.[name] ?? null));
    }
    for (const name of ['load_imbalance', 'mean_load_imbalance']) figure(name, ratio(strategy[name]?.highest_over_mean ?? null));
    for (const name of ['disagrees', 'breaks_pins']) figure(name, percent(strategy[name]));
  }

  showBackend(backend, share) {
    const row = this.rows.get(backend.id);
    if (!row) return;
    for (const name of ['picked', 'pinned', 'reassigned']) {
      write($(`[data-figure=${name}]`, row), count(backend.redirects[name]));
    }
    write($('[data-figure=overflow]', row), count(backend.overflow));
    write($('[data-figure=pinned_last_minute]', row), count(backend.pinned_last_minute ?? 0));
    write($('[data-figure=dispatch_share]', row), percent(share));
    mark($('[data-bar=dispatch_share]', row), 'width', ((share ?? 0) * 100).toFixed(1));
    if (this.pool.reports_load) this.showLoad(row, backend.load);
  }

  /** A load of a known capacity is a part of it; others are drawn beside the highest of the pool. */
  showLoad(row, load) {
    const most = Math.max(0, ...this.pool.backends.map((backend) => backend.load?.utilization ?? 0));
    const part = load ? load.utilization / (load.capacity === null ? most || 1 : 1) : 0;
    const known = load && load.capacity !== null;
    write($('[data-figure=load]', row), loadText(load));
    mark($('[data-bar=load]', row), 'width', (Math.min(part, 1) * 100).toFixed(1));
    mark($('[data-bar=load]', row), 'data-level', known && part >= 1 ? 'over' : known && part >= 0.8 ? 'high' : 'fine');
  }

  draw(now) {
    const span = Math.min(HISTORY, 60_000 * Math.max(1, Math.ceil((now - this.history.samples[0].time) / 60_000)));
    for (const [chart, series] of this.charts) chart.draw(series(this.history, this.pool), now, span);
  }
}

// --- controls ------------------------------------------------------------------------------------------------

/** The admin token, once it was asked for: in memory alone, gone with the page. */
let token = null;

function addControls(section) {
  const table = $('.backends', section.place);
  if (section.rows.size > 15) table.before(filterFor(section));
  if (document.body.dataset.changes === 'refused') return;
  $('thead tr', table).append(element('th', { scope: 'col' }, element('span', { className: 'hidden', textContent: 'change' })));
  for (const [id, row] of section.rows) {
    const button = element('button', { type: 'button', textContent: 'Change…', attrs: { 'aria-label': `Change ${id}` } });
    button.addEventListener('click', () => openDialog(section, id));
    row.append(element('td', { className: 'change' }, button));
  }
}

function filterFor(section) {
  const input = element('input', { type: 'search', placeholder: 'Filter: id, URL, state', attrs: { 'aria-label': `Filter backends of ${section.place.dataset.pool}` } });
  const apply = () => {
    const wanted = section.filter = input.value.trim().toLowerCase();
    for (const row of section.rows.values()) row.hidden = !row.textContent.toLowerCase().includes(wanted);
  };
  input.value = section.filter ?? '';
  input.addEventListener('input', apply);
  apply();
  return element('p', { className: 'filter' }, input);
}

const dialog = {
  title: element('h2', { id: 'change-title' }),
  buttons: ['active', 'draining', 'maintenance'].map((admin) =>
    element('button', { type: 'button', value: admin, textContent: admin })),
  weight: element('input', { type: 'number', min: 0, max: 256, step: 1, required: true }),
  token: element('input', { type: 'password', autocomplete: 'off' }),
  reset: element('button', { type: 'button', textContent: 'Back to the settings' }),
  wrong: element('p', { className: 'wrong', attrs: { role: 'alert' } }),
  close: element('button', { type: 'button', textContent: 'Close' }),
};

function buildDialog() {
  const { title, buttons, weight, token: secret, reset, wrong, close } = dialog;
  const field = (name, input) => element('label', {}, element('span', { textContent: name }), input);
  dialog.tokenField = field('admin token, kept until this page is left', secret);
  const form = element('form', {},
    element('fieldset', {}, element('legend', { textContent: 'visitors' }), ...buttons),
    element('div', { className: 'row' }, field('weight, 0 to 256', weight), element('button', { textContent: 'Set' })),
    dialog.tokenField, wrong,
    element('div', { className: 'row' }, reset, close));
  dialog.box = element('dialog', { attrs: { 'aria-labelledby': title.id } }, title, form);
  for (const button of buttons) button.addEventListener('click', () => change({ admin: button.value }));
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    change({ weight: weight.valueAsNumber });
  });
  reset.addEventListener('click', () => change({ admin: null, weight: null }));
  close.addEventListener('click', () => dialog.box.close());
  dialog.box.addEventListener('close', () => {
    secret.value = '';
    $('.change button', dialog.section.rows.get(dialog.id))?.focus();
  });
  document.body.append(dialog.box);
}

function openDialog(section, id) {
  const backend = section.pool.backends.find((known) => known.id === id);
  if (!backend) return;
  Object.assign(dialog, { section, id });
  dialog.title.textContent = `${section.pool.name} / ${id}`;
  for (const button of dialog.buttons) mark(button, 'aria-pressed', button.value === backend.admin);
  dialog.weight.value = backend.weight;
  dialog.reset.hidden = backend.set_at_run_time.length === 0;
  dialog.tokenField.hidden = document.body.dataset.changes !== 'token' || token !== null;
  dialog.wrong.textContent = '';
  dialog.box.showModal();
}

/** Sends a change of the dialog's backend, and says what came of it. */
async function change(body) {
  const { section, id } = dialog;
  const path = `api/v1/pools/${encodeURIComponent(section.pool.name)}/backends/${encodeURIComponent(id)}`;
  const headers = { 'Content-Type': 'application/json' };
  const given = token ?? dialog.token.value;
  if (given) headers.Authorization = `Bearer ${given}`;
  try {
    const answer = await fetch(path, { method: 'PATCH', headers, body: JSON.stringify(body), signal: AbortSignal.timeout(10_000) });
    const told = await answer.json();
    if (!answer.ok) {
      if (answer.status === 401) token = null;
      dialog.tokenField.hidden = document.body.dataset.changes !== 'token' || token !== null;
      dialog.wrong.textContent = told.detail;
      return;
    }
    if (given) token = given;
    dialog.box.close();
    say(`${id}: ${told.state}, weight ${told.weight}`);
    said = { pool: section.pool.name, id, state: told.state, weight: told.weight };
    refresh();
  } catch (error) {
    dialog.wrong.textContent = `no answer: ${error.message}`;
  }
}

/** The change that the line above the pools is about. It goes once it is not so any more. */
let said = null;

function forget(pools) {
  if (!said) return;
  const pool = pools.find((one) => one.name === said.pool);
  const backend = pool?.backends.find((one) => one.id === said.id);
  if (backend?.state === said.state && backend.weight === said.weight) return;
  said = null;
  say('');
}

function say(text, kind = 'good') {
  const place = $('#said');
  mark(place, 'data-kind', kind);
  write(place, text);
}

// --- keeping it fresh ----------------------------------------------------------------------------------------

/** A pool that came after the API was asked. */
const EMPTY = { name: '', reports_load: false, strategies: [], backends: [] };
const sections = new Map();
let words = null;
let paused = false;
let timer = null;

/** What of an overview is words: where these differ, the server renders them anew. */
function wordsOf(overview) {
  const figures = ['redirects', 'dispatches', 'dispatch_imbalance', 'disagrees', 'breaks_pins', 'pick_nanoseconds', 'dispatch_share', 'overflow', 'pinned_last_minute',
    'load', 'load_imbalance', 'mean_load_imbalance'];
  return JSON.stringify(overview, (name, value) => {
    // Of a share that is learnt it is rendered whether there is one.
    if (name === 'local_traffic_ratio') return value !== null;
    return figures.includes(name) ? undefined : value;
  });
}

/** The page as the server renders it now: an inert document. */
function rendered() {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest();
    request.open('GET', location.href);
    request.responseType = 'document';
    request.timeout = 10_000;
    request.onload = () => (request.status === 200 ? resolve(request.response) : reject(new Error(`status ${request.status}`)));
    request.onerror = request.ontimeout = () => reject(new Error('no answer'));
    request.send();
  });
}

/** Puts what the server rendered in the place of what is there; charts, filters and focus stay. */
async function replace(pools) {
  const fresh = await rendered();
  const focused = document.activeElement?.closest('main [data-pool]')?.dataset.pool;
  const row = document.activeElement?.closest('[data-backend]')?.dataset.backend;
  document.body.dataset.changes = fresh.body.dataset.changes;
  $('.ready').replaceChildren(...$('.ready', fresh).childNodes);
  $('main').replaceChildren(...$('main', fresh).children);
  const places = all('[data-pool]', $('main'));
  for (const name of sections.keys()) if (!places.some((place) => place.dataset.pool === name)) sections.delete(name);
  for (const place of places) {
    const name = place.dataset.pool;
    if (!sections.has(name)) sections.set(name, new Section());
    sections.get(name).adopt(place, pools.find((pool) => pool.name === name) ?? EMPTY);
  }
  const section = sections.get(focused);
  if (section) $(row === undefined ? 'input' : 'button', row === undefined ? section.place : section.rows.get(row))?.focus();
}

async function refresh() {
  clearTimeout(timer);
  if (!paused && !document.hidden) {
    try {
      const answer = await fetch('api/v1/pools', { cache: 'no-store', signal: AbortSignal.timeout(10_000) });
      const overview = await answer.json();
      if (!answer.ok) throw new Error(overview.detail);
      const now = Date.now();
      const fresh = wordsOf(overview);
      if (fresh !== words) await replace(overview.pools);
      words = fresh;
      for (const pool of overview.pools) sections.get(pool.name)?.show(pool, now);
      forget(overview.pools);
      // By the server's clock: the operator's may differ.
      const there = Date.parse(answer.headers.get('date')) || now;
      for (const time of all('time[data-until]')) {
        write(time, countdown(Math.max(0, Math.round((Date.parse(time.dateTime) - there) / 1000))));
      }
      draw();
      mark($('#live'), 'data-kind', 'good');
      write($('#live span'), `as of ${new Date(now).toLocaleTimeString()}`);
    } catch (error) {
      mark($('#live'), 'data-kind', 'bad');
      write($('#live span'), `no fresh figures: ${error.message}`);
    }
  }
  clearTimeout(timer);
  timer = setTimeout(refresh, INTERVAL);
}

function draw() {
  const now = Date.now();
  for (const section of sections.values()) if (section.pool) section.draw(now);
}

function start() {
  const pause = element('button', { type: 'button', textContent: 'Pause', attrs: { 'aria-pressed': 'false' } });
  pause.addEventListener('click', () => {
    paused = !paused;
    mark(pause, 'aria-pressed', paused);
    refresh();
  });
  $('#live').replaceChildren(element('span'), ' ', pause);
  buildDialog();
  addEventListener('resize', draw);
  document.addEventListener('visibilitychange', refresh);
  refresh();
}

start();
