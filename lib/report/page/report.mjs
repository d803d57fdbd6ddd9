// The page about a run: charts with tables behind them, and what the run recorded, from the data in the page itself.
import uPlot from '/uplot.mjs'
import { Chart, element, mebibytes, percent, short, themeButton } from '/parts.mjs'

/** @type {{ runs: any[] }} */
const { runs } = JSON.parse(document.getElementById('data').textContent)
const [run] = runs
const main = document.getElementById('main')
/** What is drawn anew when the theme changes. */
const drawn = []

// -------------------------------------------------------------------------------------------------------------- pieces

/** Begins a part of the page, which the header links to. */
function part(id, title, ...children) {
  const heading = element('h2', title, { id: `${id}-title` })
  const section = element('section', '', { id, 'aria-labelledby': heading.id }, heading, ...children)
  main.append(section)
  document.getElementById('parts').append(element('a', title, { href: `#${id}` }))
  return section
}

const paragraph = (text, kind) => element('p', text, kind ? { class: kind } : {})

/** A table in a box of its own, which scrolls where it is too wide. */
function table(caption, head, rows, { text = [] } = {}) {
  const cell = (name, value, i, attributes = {}) =>
    element(name, '', { ...attributes, ...(text.includes(i) && { class: 'text' }) }, value ?? '–')
  const t = element('table', '', {}, element('caption', caption))
  t.append(
    element('thead', '', {}, element('tr', '', {}, ...head.map((value, i) => cell('th', value, i, { scope: 'col' })))),
    element(
      'tbody',
      '',
      {},
      ...rows.map((row) =>
        element(
          'tr',
          '',
          {},
          ...row.map((value, i) => (i ? cell('td', value, i) : cell('th', value, i, { scope: 'row' }))),
        ),
      ),
    ),
  )
  return element('div', '', { class: 'wide', tabindex: '0', role: 'region', 'aria-label': caption }, t)
}

/** Something that is made when it is opened. */
function folded(summary, make) {
  const details = element('details', '', {}, element('summary', summary))
  details.addEventListener('toggle', () => details.open && details.children.length === 1 && details.append(make()))
  return details
}

/** Rows of a table behind a chart. */
const ROWS = 200

/** A chart with its table. `series`: label, colour, xs, ys, and what else uPlot takes. */
function chart(title, x, series, values = short) {
  const place = element('div', '', { class: 'chart', role: 'img', 'aria-label': title })
  const figure = element('figure', '', {}, element('figcaption', title), place)
  const data = series.length > 1 ? uPlot.join(series.map(({ xs, ys }) => [xs, ys])) : [series[0].xs, series[0].ys]
  const c = new Chart(
    place,
    x,
    series.map(({ xs, ys, ...more }) => ({ spanGaps: false, ...more })),
    values,
  )
  drawn.push(() => c.redraw())
  const ends = series.map(({ label, xs, ys }) => {
    const last = ys.findLastIndex((y) => typeof y === 'number')
    return `${label}: ${values(ys[last])} at ${x} ${xs[last]}`
  })
  const stride = Math.ceil(data[0].length / ROWS)
  figure.append(
    folded('As a table', () =>
      table(
        stride > 1 ? `${title}, every ${stride}th point` : title,
        [x, ...series.map((s) => s.label)],
        data[0].flatMap((at, i) =>
          (data[0].length - 1 - i) % stride
            ? []
            : [[String(at), ...data.slice(1).map((ys) => (typeof ys[i] === 'number' ? values(ys[i]) : '–'))]],
        ),
      ),
    ),
  )
  // A chart is as wide as its place, which has no width before it is on the page.
  queueMicrotask(() => c.show(data, `${title}. ${ends.join('; ')}.`))
  return figure
}

const moment = (iso) => (typeof iso === 'string' ? `${iso.slice(0, 16).replace('T', ' ')} UTC` : '–')
function duration(seconds) {
  if (!(seconds > 0)) return '–'
  if (seconds < 120) return `${short(seconds)} s`
  const minutes = Math.round(seconds / 60)
  return minutes < 120 ? `${minutes} min` : `${Math.floor(minutes / 60)} h ${minutes % 60} min`
}
const memory = (x) => (x < 2 ** 24 ? `${(x / 2 ** 20).toFixed(2)} MiB` : mebibytes(x))
const count = (n) => (typeof n === 'number' ? n.toLocaleString('en') : '–')
const colourOf = (i) => `--c${i}`
const dashOf = (i) => (i ? { dash: [2 + 3 * i, 3] } : {})

/** Mean of the values that are numbers. */
function meanOf(values) {
  const numbers = values.filter((x) => typeof x === 'number')
  return numbers.length ? numbers.reduce((a, b) => a + b, 0) / numbers.length : undefined
}

/** Exponential smoothing; null where there is no value. */
function smoothed(values) {
  let before
  return values.map((value) => {
    if (value === null) return null
    before = before === undefined ? value : 0.9 * before + 0.1 * value
    return before
  })
}

// ------------------------------------------------------------------------------------------------------------- figures

/** What there is to say of a run in a line each. */
function figuresOf({ course, about }) {
  const { curves, validations } = course
  const best = validations.findLast((v) => v.best)
  const last = validations.at(-1)
  const peak = curves.memory.reduce((a, b) => Math.max(a, b ?? 0), 0)
  const lastLoss = smoothed(curves.loss).findLast((x) => x !== null)
  return {
    'best right answers': best?.accuracy === undefined ? '–' : `${percent(best.accuracy)} (step ${best.step})`,
    'last right answers': percent(last?.accuracy),
    'last loss, smoothed': short(lastLoss),
    steps: course.steps ? `${count(course.done)} of ${count(course.steps)}` : count(course.done),
    epochs: count(course.epochs),
    'time in steps': duration(course.seconds),
    'answer tokens a second': short(meanOf(curves.tokensPerSecond)),
    'waits for data': percent(meanOf(curves.waiting)),
    padding: percent(meanOf(curves.padding)),
    'most memory': peak ? memory(peak) : '–',
    'steps that were not finite': count(course.bad.length),
    'spikes of the loss': count(course.spikes.length),
    samples: about
      ? Object.entries(about.samples)
          .map(([name, n]) => `${count(n)} ${name}`)
          .join(', ')
      : '–',
    begun: moment(about?.started ?? course.begun),
    ended: moment(course.ended),
  }
}

function figures() {
  const all = runs.map(figuresOf)
  if (runs.length === 1) {
    const pairs = Object.entries(all[0]).map(([name, value]) =>
      element('div', '', {}, element('dt', name), element('dd', value)),
    )
    main.append(element('dl', '', { id: 'figures' }, ...pairs))
  } else
    part(
      'runs',
      'Runs',
      table(
        'Runs compared',
        ['', ...runs.map((r) => r.name)],
        Object.keys(all[0]).map((name) => [name, ...all.map((a) => a[name])]),
      ),
    )
}

function gaps() {
  const all = runs.flatMap((r) => r.gaps.map((gap) => (runs.length > 1 ? `${r.name}: ${gap}` : gap)))
  if (all.length)
    part('gaps', 'What is missing', element('ul', '', { class: 'gaps' }, ...all.map((gap) => element('li', gap))))
}

// -------------------------------------------------------------------------------------------------------------- curves

const has = (values) => values.some((x) => typeof x === 'number')

/** A series for each run that has numbers of this name. */
function seriesOf(read) {
  return runs.flatMap((r, i) => {
    const [xs, ys] = read(r.course)
    if (!has(ys)) return []
    return [{ label: r.name, stroke: colourOf(i), width: 2, ...dashOf(i), xs, ys }]
  })
}

function curves() {
  const grid = element('div', '', { class: 'charts' })
  const missing = []
  const add = (title, series, values) => {
    if (series.length) grid.append(chart(title, 'step', series, values))
    else missing.push(title)
  }
  const ofSteps = (name, title, values) =>
    add(
      title,
      seriesOf(({ curves: c }) => [c.step, c[name]]),
      values,
    )
  const ofChecks = (title, read, values) => {
    const series = seriesOf(({ validations }) => {
      const found = validations.filter((v) => typeof read(v) === 'number')
      return [found.map((v) => v.step), found.map(read)]
    })
    add(
      title,
      series.map((s) => ({ ...s, points: { show: true } })),
      values,
    )
  }
  const loss = 'Loss per answer token'
  const smooth = seriesOf(({ curves: c }) => [c.step, smoothed(c.loss)])
  if (runs.length > 1 || !smooth.length) add(`${loss}, smoothed`, smooth)
  else {
    const { step: xs, loss: ys } = run.course.curves
    add(loss, [
      { label: 'loss', stroke: '--soft', width: 0.75, xs, ys },
      { ...smooth[0], label: 'smoothed' },
    ])
  }
  ofChecks('Right answers on the validation samples', (v) => v.accuracy, percent)
  const tasks = [...new Set(run.course.validations.flatMap((v) => Object.keys(v.tasks ?? {})))].slice(0, 6)
  if (tasks.length > 1) {
    const found = run.course.validations.filter((v) => v.tasks)
    const xs = found.map((v) => v.step)
    add(
      runs.length > 1 ? `Right answers by task, ${run.name}` : 'Right answers by task',
      tasks.map((label, i) => ({
        label,
        stroke: colourOf(i),
        width: 2,
        ...dashOf(i),
        points: { show: true },
        xs,
        ys: found.map((v) => v.tasks[label] ?? null),
      })),
      percent,
    )
  }
  if (runs.some((r) => r.course.validations.some((v) => v.valLoss !== undefined)))
    ofChecks('Loss per answer token of the validation samples', (v) => v.valLoss ?? null)
  ofSteps('lr', 'Learning rate')
  ofSteps('norm', 'Norm of the gradient')
  ofSteps('tokensPerSecond', 'Answer tokens a second')
  ofSteps('memory', 'Memory in use', memory)
  ofSteps('waiting', 'Share of the time that steps waited for data', percent)
  ofSteps('padding', 'Share of padding in the texts', percent)
  const section = part('curves', 'Curves', grid)
  const stride = Math.max(...runs.map((r) => r.course.stride))
  if (stride > 1) section.append(paragraph(`Long runs are shown as means of up to ${stride} steps.`, 'notes'))
  if (missing.length) section.append(paragraph(`The log has no numbers for: ${missing.join('; ')}.`, 'notes'))
}

function checks() {
  const rows = runs.flatMap((r) => r.course.validations.map((v) => [r, v]))
  const section = part('validations', 'Validations')
  if (!rows.length) section.append(paragraph('The log has no validation and no end of an epoch.'))
  else
    section.append(
      table(
        'Validations and ends of epochs',
        [
          ...(runs.length > 1 ? ['Run'] : []),
          'Step',
          'Epoch',
          'Training loss',
          'Right answers',
          'Validation loss',
          'Best',
        ],
        rows.map(([r, v]) => [
          ...(runs.length > 1 ? [r.name] : []),
          String(v.step),
          `${v.epoch}${v.kind === 'epoch' ? ', its end' : ''}`,
          short(v.loss),
          v.notFinite === undefined ? percent(v.accuracy) : `not finite: ${v.notFinite}`,
          short(v.valLoss),
          v.best ? 'yes' : '',
        ]),
      ),
    )
  const odd = (title, head, list) =>
    list.length && section.append(folded(title, () => table(title, head, list, { text: [2] })))
  const { bad, spikes } = run.course
  odd(
    `Steps that were not finite (${bad.length})`,
    ['Step', '', 'What was not finite'],
    bad.slice(0, ROWS).map(({ step, reason }) => [String(step), '', reason]),
  )
  odd(
    `Spikes of the loss (${spikes.length})`,
    ['Step', 'Loss, robust z', 'Samples'],
    spikes
      .slice(0, ROWS)
      .map(({ step, loss, z, samples }) => [String(step), `${short(loss)}, ${short(z)}`, samples.join(', ')]),
  )
}

// ------------------------------------------------------------------------------------------------------- configuration

/** Values by dotted keys. */
function flat(value, key = '') {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    return [[key, typeof value === 'string' ? value : JSON.stringify(value)]]
  return Object.entries(value).flatMap(([name, inner]) => flat(inner, key ? `${key}.${name}` : name))
}

const GROUPS = { versions: 'Versions', computing: 'Computed with', model: 'Image model', trained: 'Trained numbers' }

function configuration() {
  const known = runs.map((r) => r.about ?? (r.saved && { config: r.saved }))
  if (!known.some(Boolean)) return
  const section = part('configuration', 'Configuration')
  const compared = (title, maps, differing) => {
    const keys = [...new Set(maps.flatMap((m) => [...m.keys()]))]
    const rows = keys
      .filter((key) => !differing || new Set(maps.map((m) => m.get(key))).size > 1)
      .map((key) => [key, ...maps.map((m) => m.get(key))])
    return rows.length
      ? table(title, ['Key', ...runs.map((r) => r.name)], rows, { text: [0, 1, 2, 3, 4, 5, 6] })
      : paragraph('None.')
  }
  const of = (name) => known.map((about) => new Map(flat(about?.[name] ?? {}).filter(([key]) => key)))
  for (const [name, title] of Object.entries(GROUPS))
    if (known.some((about) => about?.[name])) section.append(compared(title, of(name)))
  const config = of('config')
  if (runs.length > 1)
    section.append(element('h3', 'Keys that differ'), compared('Configuration: keys that differ', config, true))
  section.append(folded('The whole configuration', () => compared('Configuration', config)))
}

// --------------------------------------------------------------------------------------------------------------- begin

const title = runs.length > 1 ? `Run ${run.name}, compared` : `Run ${run.name}`
document.title = title
document.getElementById('title').textContent = title
figures()
gaps()
curves()
checks()
configuration()
themeButton(document.getElementById('theme'), () => {
  for (const draw of drawn) draw()
})
