// The parts of the report about what the model does: routers, answers, what it looks at, clips.
import { element, percent, short } from '/parts.mjs'
import { count, cut, folded, heatMap, meanOf, paragraph, part, run, table, tinted } from '/pieces.mjs'

/** The masks of layers that choose among several, as rows. */
const masksOf = (layers) =>
  layers.flatMap((masks, layer) =>
    masks.length > 1 ? masks.map((_, j) => ({ layer, j, name: `layer ${layer}, M${j}` })) : [],
  )

export function routers() {
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

/** Most answers of a confusion matrix that have a row of their own; the rarest are taken together. */
const ANSWERS = 12

const shareRight = (list) => (list.length ? percent(list.filter((a) => a.correct).length / list.length) : '–')

export function answers() {
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
export function probed() {
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

export function clips() {
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
