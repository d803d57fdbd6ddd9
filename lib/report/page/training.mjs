// The parts of the report about training: figures, curves, validations, configuration.
import { element, percent, short } from '/parts.mjs'
import {
  ROWS,
  chart,
  colourOf,
  count,
  duration,
  folded,
  has,
  main,
  meanOf,
  memory,
  moment,
  paragraph,
  part,
  run,
  runs,
  smoothed,
  table,
} from '/pieces.mjs'

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

export function figures() {
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

export function gaps() {
  const all = runs.flatMap((r) => r.gaps.map((gap) => (runs.length > 1 ? `${r.name}: ${gap}` : gap)))
  if (all.length)
    part('gaps', 'What is missing', element('ul', '', { class: 'gaps' }, ...all.map((gap) => element('li', gap))))
}

/** A series for each run that has numbers of this name. */
function seriesOf(read) {
  return runs.flatMap((r, i) => {
    const [xs, ys] = read(r.course)
    if (!has(ys)) return []
    return [{ label: r.name, stroke: colourOf(i), width: 2, ...dashOf(i), xs, ys }]
  })
}

export function curves() {
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

export function checks() {
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

/** Values by dotted keys. */
function flat(value, key = '') {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    return [[key, typeof value === 'string' ? value : JSON.stringify(value)]]
  return Object.entries(value).flatMap(([name, inner]) => flat(inner, key ? `${key}.${name}` : name))
}

const GROUPS = { versions: 'Versions', computing: 'Computed with', model: 'Image model', trained: 'Trained numbers' }

export function configuration() {
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
