/** The study of the tiny world as a page of Markdown with charts, made of its JSON alone. */
import { intervalChart, lineChart } from '../report/svg.js'
import { markdownTable } from '../report/table.js'
import { costTable } from './report.js'
import type { Difference } from './statistics.js'
import { ALL, type OverSeeds, type Study } from './study.js'

const one = (x: number): string => x.toFixed(1)
const signed = (x: number): string => `${x < 0 ? '−' : '+'}${Math.abs(x).toFixed(1)}`
const spread = ({ mean, deviation }: OverSeeds): string =>
  deviation === undefined ? one(mean) : `${one(mean)} ± ${one(deviation)}`
const between = ({ difference, low, high }: Difference): string =>
  `${signed(100 * difference)} [${signed(100 * low)}, ${signed(100 * high)}]`
const found = (d: Difference): string => `${between(d)}: ${d.verdict}`

/** Charts by name, as SVG. */
export function studyCharts(study: Study): Map<string, string> {
  const { differences, byClips, bySteps, byTask } = study
  const charts = new Map<string, string>([
    [
      'differences',
      intervalChart(
        'Accuracy less that of the full model, test questions',
        'points, with 95 % intervals',
        differences.map(({ variant, test }) => {
          const { difference, low, high } = test[ALL]!
          return { name: variant, value: 100 * difference, low: 100 * low, high: 100 * high }
        }),
      ),
    ],
    [
      'stills',
      intervalChart(
        'Still pictures: accuracy less that of the full model',
        'points, with 95 % intervals',
        differences.map(({ variant, stills: { difference, low, high } }) => ({
          name: variant,
          value: 100 * difference,
          low: 100 * low,
          high: 100 * high,
        })),
      ),
    ],
  ])
  if (bySteps.length)
    charts.set(
      'steps',
      lineChart(
        'Accuracy on validation clips by optimiser step',
        { x: 'optimiser steps', y: '%' },
        bySteps.map(({ variant, points }) => ({
          name: variant,
          points: points.map(({ step, accuracy }) => ({ x: step, y: accuracy })),
        })),
      ),
    )
  if (byTask.length)
    charts.set(
      'tasks',
      lineChart(
        'The full model by task, on validation clips',
        { x: 'optimiser steps', y: '%' },
        byTask.map(({ task, points }) => ({
          name: task,
          points: points.map(({ step, accuracy }) => ({ x: step, y: accuracy })),
        })),
      ),
    )
  if (new Set(byClips.map((c) => c.clips)).size > 1)
    charts.set(
      'clips',
      lineChart(
        'Accuracy on test questions by clips to train on, with the same number of steps',
        { x: 'clips', y: '%', log: true },
        [...new Set(byClips.map((c) => c.variant))].map((name) => ({
          name,
          points: byClips
            .filter((c) => c.variant === name)
            .map(({ clips, accuracy }) => ({ x: clips, y: accuracy[ALL]!.mean })),
        })),
      ),
    )
  return charts
}

/** A question that the study answers, by the difference that answers it: the first variant less the full model. */
const QUESTIONS: readonly { variant: string; question: string }[] = [
  { variant: 'without-mqt', question: 'Is attention over time needed (w/o MQT)?' },
  { variant: 'without-fusion', question: 'Is early fusion needed (w/o Fusion)?' },
  { variant: 'without-dar', question: 'Is routing needed (w/o DAR)?' },
  { variant: 'joint', question: 'Does joint attention over all tokens do as well?' },
  { variant: 'fresh', question: 'Does a temporal block of its own weights do as well (`temporal.weights: fresh`)?' },
  { variant: 'score', question: 'Routing by scores, in place of softmaxes (`dar.mode`)?' },
  { variant: 'reuse', question: 'The temporal block without its gate (`temporal.residual: reuse`)?' },
]

/** A model of others or of ours, trained on the study's clips. */
export interface PeerRow {
  name: string
  trained: number
  /** In percent, by task and in all. */
  accuracy: Record<string, number>
  /** The median. */
  stepSeconds: number
  /** Most memory of the process. */
  peakBytes: number
}

/** The study's clips, learned by what others have. */
export interface Peer {
  threads: number
  steps: number
  versions: Record<string, string>
  rows: PeerRow[]
}

/** The section about a peer. */
export function peerSection({ threads, steps, versions, rows }: Peer, columns: readonly string[]): string[] {
  const named = Object.entries(versions).map(([name, version]) => `${name} ${version}`)
  return [
    '## Beside transformers and PEFT',
    `InstructBlipVideo of transformers is the image model frame by frame, its visual tokens one after another; PEFT adds LoRA to the Q-Former (${named.join(', ')}). It learned from the same checkpoint, features, samples, order, rates and ${steps.toLocaleString('en')} steps, seed 0, as ours without attention over time, which also has routers and positions, and as the full model; ${threads} ${threads === 1 ? 'thread' : 'threads'}, each in a process of its own. Its processor has room for four frames alone; the ids were built by hand.`,
    markdownTable(
      ['', ...columns, 'trained parameters', 'step, ms', 'peak of the process, MB'],
      rows.map((r) => [
        r.name,
        ...columns.map((c) => one(r.accuracy[c]!)),
        r.trained.toLocaleString('en'),
        (1000 * r.stepSeconds).toFixed(0),
        (r.peakBytes / 1e6).toFixed(0),
      ]),
      (column) => column > 0,
    ),
  ]
}

/** The page. @param place where charts lie, as a link names them, and what stands below the title */
export function studyPage(
  study: Study,
  {
    chart = (name) => `report-${name}.svg`,
    head = [],
    peer,
  }: { chart?(name: string): string; head?: readonly string[]; peer?: Peer | undefined } = {},
): string {
  const { tasks, variants, differences } = study
  const columns = [...tasks, ALL]
  const picture = (name: string, about: string): string[] =>
    studyCharts(study).has(name) ? [`![${about}](${chart(name)})`] : []
  const of = (variant: string): Study['differences'][number] | undefined =>
    differences.find((d) => d.variant === variant)
  const full = variants.find((v) => v.variant === 'full')!
  const { steps } = study.costs.find((c) => c.variant === 'full')!
  const curves = new Set(study.byClips.map((c) => c.clips)).size > 1
  const lacking = [
    ...(study.seeds < 5
      ? [
          `${study.seeds} ${study.seeds === 1 ? 'seed' : 'seeds'}, not 5: what differs from seed to seed is ${study.seeds === 1 ? 'not known' : 'known roughly'}`,
        ]
      : []),
    ...(study.unfinished.length ? [`runs without a result yet (${study.unfinished.join(', ')})`] : []),
    ...(curves ? [] : ['runs on 64 and 250 clips (`--no-curves`)']),
    'other image models: there is one checkpoint, of one pre-training',
    'gates that start closed (`temporal.gateInit: 0`), which in so few steps hardly open',
  ]
  /** What the study says of a setting with a default, of which the full model here has the value `own`. */
  const open = (variant: string, name: string, own: string, other: string, standard: string): string => {
    const d = of(variant)?.test[ALL]
    if (!d) return `- \`${name}\`: not studied here.`
    const best = d.verdict === 'undecided' ? undefined : d.verdict === 'better' ? other : own
    const said =
      best === undefined
        ? `the study does not decide, and the default \`${standard}\` stays`
        : best === standard
          ? `it favours the default, \`${standard}\``
          : `in so few steps it favours \`${best}\` over the default \`${standard}\``
    return `- \`${name}\`: \`${other}\` less \`${own}\` is ${between(d)} points: ${said}.`
  }
  const parts = [
    '# The tiny world: what each part of the model brings',
    ...head,
    `The image model of the demonstration is frozen, and adapters are trained on ${study.clips.train.toLocaleString('en')} generated clips of moving shapes: ${study.seeds} ${study.seeds === 1 ? 'seed' : 'seeds'} for each variant, all else equal, in ${study.precision}, ${steps.toLocaleString('en')} steps each. The full model has the demonstration's settings: gates before the temporal block, which start at 1. The test is ${study.questions.test} questions about ${study.clips.test} other clips, and ${study.questions.stills} about still pictures, which the image model was made for. Seeds change initial values and order; clips are the same. The last adapter answers, none is chosen by its score.`,
    `Not in it: ${lacking.join('; ')}.${Object.keys(study.changed).length ? ` Changed from the recipe: \`${JSON.stringify(study.changed)}\`.` : ''}`,
    ...(full.accuracy[ALL]!.mean < study.chance[ALL]! + 15
      ? [
          `**In ${steps.toLocaleString('en')} steps the full model has hardly begun to learn**: ${one(full.accuracy[ALL]!.mean)} against chance ${one(study.chance[ALL]!)}. The demonstration trains for more steps, and the README has what it reaches. What follows compares beginnings, and decides nothing about finished models.`,
        ]
      : []),
    '## Accuracy',
    'In %, mean ± sample deviation over seeds.',
    markdownTable(
      ['variant', 'runs', ...columns, 'still pictures'],
      [
        ['chance', '', ...columns.map((c) => one(study.chance[c]!)), ''],
        ...variants.map((v) => [v.variant, v.runs, ...columns.map((c) => spread(v.accuracy[c]!)), spread(v.stills)]),
      ],
      (column) => column > 0,
    ),
    variants.map((v) => `- \`${v.variant}\`: ${v.about}.`).join('\n'),
    '## Differences from the full model',
    `Points of accuracy, seed by seed and question by question, with the interval that holds the middle 95 % of 2,000 draws of seeds and clips. Where it holds 0, the study is undecided.${study.seeds === 1 ? ' With one seed, clips alone are drawn: another seed may differ by more than the interval says, so that nothing is decided.' : ''}`,
    ...picture('differences', 'Differences of each variant from the full model, with intervals'),
    markdownTable(
      ['variant', ...columns, 'verdict on all'],
      differences.map((d) => [d.variant, ...columns.map((c) => between(d.test[c]!)), d.test[ALL]!.verdict]),
      (column) => column > 0,
    ),
    '## What it says',
    QUESTIONS.flatMap(({ variant, question }) => {
      const d = of(variant)
      return d ? [`- ${question} \`${variant}\` less \`full\`: ${found(d.test[ALL]!)}.`] : []
    }).join('\n'),
    ...(of('without-fusion') && of('fresh')
      ? [
          'Two of these are not fair to a variant, and no evidence on the paper: without fusion the Q-Former sees no question, though this small one was pre-trained with a question always there, and a new block of weights (`fresh`) has the same learning rate as the rest.',
        ]
      : []),
    '## Defaults that the paper leaves open',
    [
      open('score', 'dar.mode', 'attention', 'score', 'attention'),
      open('reuse', 'temporal.residual', 'gated', 'reuse', 'reuse'),
    ].join('\n'),
    '## Still pictures after the transfer',
    `The full model less the untrained image model on questions about still pictures: ${found(study.retention)}. The adapter is part of the model here too; without it the image model answers as before.`,
    ...picture('stills', 'Differences on still pictures from the full model, with intervals'),
    '## Weak tasks',
    `Chance is ${tasks.map((t) => `${one(study.chance[t]!)} for ${t}`).join(', ')}; the full model reaches ${tasks.map((t) => `${one(full.accuracy[t]!.mean)} in ${t}`).join(', ')}. ${weak(study)}`,
    ...picture('tasks', 'Accuracy of the full model by task against optimiser steps'),
    ...(study.bySteps.length
      ? ['## Steps', ...picture('steps', 'Accuracy on validation clips against optimiser steps')]
      : []),
    ...(curves
      ? [
          '## Clips',
          'With fewer clips each is seen more often, so that the number of steps is the same.',
          ...picture('clips', 'Accuracy against clips to train on'),
          markdownTable(
            ['variant', 'clips', ...columns],
            study.byClips.map((c) => [c.variant, c.clips, ...columns.map((t) => spread(c.accuracy[t]!))]),
            (column) => column > 0,
          ),
        ]
      : []),
    '## Cost',
    costTable(study.costs),
    ...(peer ? peerSection(peer, columns) : []),
  ]
  return `${parts.join('\n\n')}\n`
}

/** What is known of the tasks nearest to chance: how often they are asked, and whether they still rise. */
function weak({ tasks, trainQuestions, byTask, variants, chance }: Study): string {
  const full = variants.find((v) => v.variant === 'full')!
  const above = (task: string): number => (full.accuracy[task]!.mean - chance[task]!) / (100 - chance[task]!)
  const [first, second] = [...tasks].sort((a, b) => above(a) - above(b))
  if (second === undefined) return ''
  const rise = (task: string): string => {
    const points = byTask.find((t) => t.task === task)?.points
    if (!points || points.length < 4) return ''
    const quarter = points.slice(-Math.ceil(points.length / 4))
    const gain = quarter.at(-1)!.accuracy - quarter[0]!.accuracy
    return ` In the last quarter of the training its validation changes by ${signed(gain)} points.`
  }
  return [first!, second]
    .map((task) => {
      const share = (100 * trainQuestions[task]!) / Object.values(trainQuestions).reduce((a, b) => a + b, 0)
      const place = task === first ? 'is' : 'but one is'
      return `The weakest beyond chance ${place} ${task}, ${one(share)} % of the training questions.${rise(task)}`
    })
    .join(' ')
}
