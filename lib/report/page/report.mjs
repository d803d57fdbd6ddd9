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

// ------------------------------------------------------------------------------------------------------------- routers

const [LABELS, ROW] = [92, 14]

/**
 * Numbers from 0 to 1 as a map: rows by name, one column for each of `columns`. A pointer over a cell shows its value;
 * the table behind it holds all of them.
 */
function heatMap(title, summary, rows, columns, values) {
  const canvas = element('canvas', '', { class: 'map' })
  const place = element('div', '', { role: 'img', 'aria-label': `${title}. ${summary}` }, canvas)
  const readout = element('p', 'Point at a cell to read it.', { class: 'notes', 'aria-hidden': 'true' })
  const height = rows.length * ROW + 18
  const draw = () => {
    const width = place.clientWidth
    if (!width) return
    const ratio = globalThis.devicePixelRatio || 1
    canvas.width = width * ratio
    canvas.height = height * ratio
    canvas.style.width = `${width}px`
    canvas.style.height = `${height}px`
    const c = canvas.getContext('2d')
    c.scale(ratio, ratio)
    c.font = '11px system-ui, sans-serif'
    c.textBaseline = 'middle'
    const [soft, full] = [colour('--soft'), colour('--strong')]
    const cell = (width - LABELS) / columns.length
    for (const [i, name] of rows.entries()) {
      c.globalAlpha = 1
      c.fillStyle = soft
      c.fillText(name, 0, i * ROW + ROW / 2, LABELS - 6)
      c.fillStyle = full
      for (let j = 0; j < columns.length; j++) {
        c.globalAlpha = Math.sqrt(Math.min(1, Math.max(0, values[i][j] ?? 0)))
        c.fillRect(LABELS + j * cell, i * ROW + 1, Math.max(1, cell - (cell > 4 ? 1 : 0)), ROW - 2)
      }
    }
    c.globalAlpha = 1
    c.fillStyle = soft
    const most = Math.min(30, Math.max(6, Math.floor((width - LABELS) / 14)))
    c.fillText(cut(columns[0], most), LABELS, height - 7)
    if (columns.length > 1) {
      c.textAlign = 'right'
      c.fillText(cut(columns.at(-1), most), width, height - 7)
    }
  }
  canvas.addEventListener('pointermove', (e) => {
    const [i, j] = [
      Math.floor(e.offsetY / ROW),
      Math.floor(((e.offsetX - LABELS) / (place.clientWidth - LABELS)) * columns.length),
    ]
    if (i < rows.length && j >= 0 && j < columns.length)
      readout.textContent = `${rows[i]}, ${cut(columns[j])}: ${percent(values[i][j])}`
  })
  new ResizeObserver(draw).observe(place)
  drawn.push(draw)
  return element(
    'figure',
    '',
    {},
    element('figcaption', title),
    place,
    readout,
    folded('As a table', () =>
      table(
        title,
        ['', ...rows],
        columns.map((name, j) => [cut(name), ...rows.map((_, i) => percent(values[i][j]))]),
      ),
    ),
  )
}

/** The masks of layers that choose among several, as rows. */
const masksOf = (layers) =>
  layers.flatMap((masks, layer) =>
    masks.length > 1 ? masks.map((_, j) => ({ layer, j, name: `layer ${layer}, M${j}` })) : [],
  )

function routers() {
  const { routers: lines, evaluation: e } = run
  const sampled = e?.samples.filter((s) => s.alpha) ?? []
  if (!lines.length && !sampled.length) return
  const section = part('routers', 'Routers')
  section.append(
    paragraph(
      'What the routers of each layer give to their masks, from 0 (the ground) to 1 (full colour, which grows with the square root, so that small weights show); M0 is plain attention, the others are the masks of the configuration. The masks of a layer add up to 1.',
      'notes',
    ),
  )
  for (const [kind, title] of [
    ['spatial', 'Attention in space'],
    ['temporal', 'Attention over time'],
  ]) {
    const grid = element('div', '', { class: 'charts' })
    const add = (what, summary, list, columns, layersOf) => {
      const rows = list.length ? masksOf(layersOf(list[0])) : []
      if (!rows.length) return
      const values = rows.map(({ layer, j }) => list.map((entry) => layersOf(entry)[layer]?.[j] ?? null))
      const last = rows.map(
        ({ name }, i) => `${name}: ${percent(summary === 'last' ? values[i].at(-1) : meanOf(values[i]))}`,
      )
      const about = summary === 'last' ? `At ${columns.at(-1)}: ` : 'Means over samples: '
      grid.append(
        heatMap(
          `${title}, ${what}`,
          `${about}${last.join('; ')}.`,
          rows.map((r) => r.name),
          columns,
          values,
        ),
      )
    }
    add(
      'over training',
      'last',
      lines,
      lines.map((l) => `step ${l.step}`),
      (l) => l[kind],
    )
    const sorted = tasksOf(sampled).flatMap(([, list]) => list)
    add(
      'by sample',
      'mean',
      sorted,
      sorted.map((s) => (s.task === undefined ? s.id : `${s.task}: ${s.id}`)),
      (s) => s.alpha[kind],
    )
    if (grid.children.length) section.append(element('h3', title), grid)
  }
}

// ------------------------------------------------------------------------------------------------------------- answers

/** Most answers of a confusion matrix that have a row of their own; the rarest are taken together. */
const ANSWERS = 12

const cut = (text, most = 60) => (text.length > most ? `${text.slice(0, most - 1)}…` : text)
const shareRight = (list) => (list.length ? percent(list.filter((a) => a.correct).length / list.length) : '–')

function answers() {
  const { evaluation: e } = run
  if (!e) return
  const section = part('answers', 'Answers')
  const of = e.samples.length < e.total ? `${count(e.samples.length)} of ${count(e.total)}` : `All ${count(e.total)}`
  const at = e.step === undefined ? '' : ` (step ${e.step})`
  section.append(
    paragraph(`${of} ${e.split} samples, answered by the adapter “${e.adapter}”${at} and by the untrained model.`),
  )
  if (e.lost.length)
    section.append(
      folded(`Samples that could not be answered (${e.lost.length})`, () =>
        table(
          'Samples that could not be answered',
          ['Sample', 'Why'],
          e.lost.map((l) => [cut(l.id), l.error]),
          { text: [0, 1] },
        ),
      ),
    )
  if (!e.samples.length) return
  const groups = tasksOf(e.samples)
  const row = ([name, list]) => {
    const untrained = list.flatMap((s) => s.untrained ?? [])
    return [
      name,
      count(list.length),
      shareRight(list.map((s) => s.trained)),
      shareRight(untrained),
      short(meanOf(list.map((s) => s.trained.loss))),
      short(meanOf(untrained.map((a) => a.loss))),
    ]
  }
  section.append(
    table(
      'Right answers, and loss per token of the expected answer',
      ['Task', 'Samples', 'This run', 'Untrained', 'Loss', 'Loss, untrained'],
      [...(groups.length > 1 ? groups.map(row) : []), row(['all', e.samples])],
    ),
    element('h3', 'Which answer is taken for which'),
    element(
      'div',
      '',
      { class: 'charts' },
      ...groups.map(([name, list]) => confusion(groups.length > 1 ? `Task ${name}` : 'Answers', list)),
    ),
  )
}

/** Whether the video is looked at. */
function probed() {
  const { probe: p } = run.evaluation ?? {}
  if (!p) return
  const section = part('probe', 'Does the model look at the video?')
  p.findings.forEach((finding, i) =>
    section.append(paragraph(`${p.video || i ? 'Note' : 'Warning'}: ${finding}.`, p.video || i ? 'notes' : 'failed')),
  )
  const ends = (loss) => (loss?.interval ? `${percent(loss.interval.low)} to ${percent(loss.interval.high)}` : '–')
  section.append(
    table(
      `The same ${count(p.samples)} questions with other pictures`,
      ['Frames', p.metric === 'accuracy' ? 'Right answers' : p.metric, 'Answers changed', 'Loss', '95 % interval', 'p'],
      p.rows.map(({ view, value, changed, loss }) => [
        view,
        percent(value),
        percent(changed),
        loss ? percent(loss.difference) : '–',
        ends(loss),
        loss ? (loss.p < 0.001 ? '<0.001' : short(loss.p)) : '–',
      ]),
    ),
  )
}

/** Samples by task, in the order of names; those without a task last. */
function tasksOf(samples) {
  const names = [...new Set(samples.map((s) => s.task))].sort(
    (a, b) => (a === undefined) - (b === undefined) || (a < b ? -1 : 1),
  )
  return names.map((name) => [name ?? 'no task', samples.filter((s) => s.task === name)])
}

/** Letter case, space around and a final full stop do not matter, as where answers are compared. */
const plain = (text) => text.trim().toLowerCase().replace(/\s+/g, ' ').replace(/\.$/, '')

/** Expected answers in rows, given ones in columns. */
function confusion(title, samples) {
  const counts = new Map()
  const add = (text, n) => counts.set(text, (counts.get(text) ?? 0) + n)
  // Expected answers before those that are only given.
  for (const { answer, trained } of samples) {
    add(plain(answer), 1000)
    add(plain(trained.prediction), 1)
  }
  const sorted = [...counts].sort((a, b) => b[1] - a[1]).map(([text]) => text)
  const shown = sorted.slice(0, ANSWERS).sort()
  const rest = sorted.length > ANSWERS ? ['(another)'] : []
  const names = [...shown, ...rest]
  const index = (text) => (shown.includes(plain(text)) ? shown.indexOf(plain(text)) : shown.length)
  const cells = names.map(() => names.map(() => 0))
  for (const { answer, trained } of samples) cells[index(answer)][index(trained.prediction)]++
  const rows = names.flatMap((name, i) => {
    const all = cells[i].reduce((a, b) => a + b, 0)
    return all ? [[cut(name), ...cells[i].map((n) => tinted(String(n), n / all)), String(all)]] : []
  })
  return table(`${title}: expected in rows, given in columns`, ['', ...names.map((name) => cut(name)), 'all'], rows, {
    text: [0],
  })
}

/** A text on a ground that says how large a share is. */
function tinted(text, share) {
  const e = element('span', text, { class: 'tint' })
  e.style.setProperty('--share', `${Math.round(100 * share)}%`)
  return e
}

function clips() {
  const { evaluation: e } = run
  if (!e?.samples.length) return
  const section = part('clips', 'Clips')
  section.append(
    paragraph(
      'Right answers come first, and among these and the wrong ones, those whose expected answer has the least loss.',
      'notes',
    ),
  )
  for (const [title, list] of [
    [`The ${e.best.length} best`, e.best],
    [`The ${e.worst.length} worst, the worst first`, e.worst],
  ])
    if (list.length)
      section.append(
        element('h3', title),
        element('div', '', { class: 'cards' }, ...list.map((i) => card(e.samples[i], e.clips[i]))),
      )
}

function card(sample, clip) {
  const { id, task, prompt, text, answer, trained, untrained } = sample
  const verdict = (a) => {
    const word = a.correct ? 'right' : 'wrong'
    return element('dd', '', {}, `${a.prediction || '(nothing)'} `, element('span', `(${word})`, { class: word }))
  }
  const pairs = [
    [element('dt', 'expected'), element('dd', answer)],
    [element('dt', 'this run'), verdict(trained)],
    ...(untrained ? [[element('dt', 'untrained'), verdict(untrained)]] : []),
    [
      element('dt', 'loss'),
      element('dd', `${short(trained.loss)}${untrained ? `, untrained ${short(untrained.loss)}` : ''}`),
    ],
  ]
  const article = element(
    'article',
    '',
    {},
    element('h4', `${cut(id, 80)}${task === undefined ? '' : `, ${cut(task)}`}`),
  )
  if (clip) article.append(frames(clip))
  else article.append(paragraph('The clip could not be read again.', 'notes'))
  article.append(paragraph(prompt))
  if (text !== undefined) article.append(folded('Text for the Q-Former', () => paragraph(text)))
  article.append(element('dl', '', {}, ...pairs.flat()))
  if (trained.losses)
    article.append(
      folded('Loss of each choice', () =>
        table(
          'Loss per token of each choice',
          ['Choice', 'This run', 'Untrained'],
          Object.keys(trained.losses).map((c) => [c, short(trained.losses[c]), short(untrained?.losses?.[c])]),
          { text: [0] },
        ),
      ),
    )
  return article
}

/** The frames of a clip, each with how much attention over time looks at it, the mean over layers. */
function frames({ frames: list, weights }) {
  const share = list.map((_, i) => (weights ? meanOf(weights.map((layer) => layer[i])) : undefined))
  const shown = element(
    'ol',
    '',
    { class: 'frames', 'aria-label': 'Frames that the model reads' },
    ...list.map(({ time, image }, i) => {
      const at = `${time.toFixed(2)} s`
      const weight = share[i] === undefined ? '' : `attention ${percent(share[i])}`
      const img = element('img', '', { src: image, alt: `Frame ${i + 1}, at ${at}${weight && `, ${weight}`}` })
      const text = element('span', at)
      if (!weight) return element('li', '', {}, img, text)
      const bar = element('div', '', { class: 'bar', 'aria-hidden': 'true' })
      bar.style.setProperty('--share', `${100 * share[i]}%`)
      return element('li', '', {}, img, bar, text, element('br'), element('span', percent(share[i])))
    }),
  )
  if (!weights) return shown
  return element(
    'div',
    '',
    {},
    shown,
    folded('Attention over time, by layer', () =>
      table(
        'How much each layer looks at each frame',
        ['Layer', ...list.map((_, i) => `frame ${i + 1}`)],
        weights.map((layer, m) => [String(m), ...layer.map((x) => tinted(percent(x), x ?? 0))]),
      ),
    ),
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
routers()
answers()
probed()
clips()
configuration()
themeButton(document.getElementById('theme'), () => {
  for (const draw of drawn) draw()
})
