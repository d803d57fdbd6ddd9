// The report of a run in a browser: charts with tables behind them, light and dark, on a phone, by keyboard; no request,
// no error, no HTML of the data. And what is said where a run's folder is not whole. MT_SCREENSHOTS=1 writes the
// pictures of docs/report.md.
import {
  appendFileSync,
  chmodSync,
  cpSync,
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  rmSync,
  writeFileSync,
} from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath, pathToFileURL } from 'node:url'
import type { Browser, BrowserContextOptions, Page } from 'playwright-core'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { readManifest } from '../../lib/data/manifest.js'
import { InputError } from '../../lib/errors.js'
import { evaluate } from '../../lib/eval/evaluate.js'
import { Adapter } from '../../lib/adapter/adapter.js'
import { parseAdapterConfig } from '../../lib/adapter/config.js'
import { routerWeights, temporalWeights } from '../../lib/eval/routing.js'
import { extremes, recordEvaluation, spread } from '../../lib/eval/record.js'
import { writeReport } from '../../lib/report/page.js'
import { readEvaluation } from '../../lib/report/records.js'
import { readRun } from '../../lib/report/run.js'
import { Features } from '../../lib/session/features.js'
import { openModel } from '../../lib/session/model.js'
import { train } from '../../lib/train/loop.js'
import { browserPath, contrasts, openBrowser, picture } from '../support/browser.js'
import { cli } from '../support/cli.js'
import { temporaryFolder } from '../support/tiny.js'
import { jsonLines, makeWorld, trainConfig, type World } from '../support/world.js'

const docs = fileURLToPath(new URL('../../docs/report/', import.meta.url))
const program = browserPath()
if (!program)
  console.error(
    'test/report/page: SKIPPED, nothing tests the page: chromium is not installed (apt-get install chromium), nor named by CHROMIUM',
  )
const inBrowser = program ? test : test.skip
let browser: Browser
let world: World
/** Two runs of the same samples. */
let [wide, narrow] = ['', '']
const notices: string[] = []
test.before(async () => {
  if (program) browser = await openBrowser(program)
  world = await makeWorld()
  const more = { report: true, evalEvery: 2 }
  const onNotice = (sentence: string): void => void notices.push(sentence)
  for (const [name, own] of [
    ['wide', { epochs: 8, metric: 'valLoss' }],
    ['narrow', { epochs: 6, lr: 1e-3, schedule: 'cosine' }],
  ] as const)
    await train(trainConfig(world, name, { train: { ...more, ...own } }), { onNotice })
  ;[wide, narrow] = [join(world.root, 'wide'), join(world.root, 'narrow')]
})
test.after(async () => {
  if (program) await browser.close()
})

/** The page of a file, and what went wrong on it. */
async function open(path: string, options: BrowserContextOptions = {}) {
  const context = await browser.newContext({ viewport: { width: 1000, height: 900 }, ...options })
  const page = await context.newPage()
  page.setDefaultTimeout(30_000)
  const problems: string[] = []
  const url = pathToFileURL(path).href
  page.on('pageerror', (error) => problems.push(String(error)))
  page.on('console', (m) => void problems.push(m.text()))
  page.on('request', (r) => {
    if (r.url() !== url && !r.url().startsWith('data:')) problems.push(`it asks ${r.url()}`)
  })
  await page.goto(url)
  await page.locator('#curves canvas').first().waitFor()
  return { page, problems, close: () => context.close() }
}
const texts = (page: Page, selector: string): Promise<string[]> => page.locator(selector).allTextContents()

/** What is unfolded is made a moment later. */
async function made(page: Page): Promise<void> {
  const all = `[...document.querySelectorAll('details[open]')].every((e) => e.children.length > 1)`
  while (!(await page.evaluate(all))) await page.waitForTimeout(5)
}

/** Opens all that is folded; the focus stays where the page begins. */
async function unfold(page: Page): Promise<void> {
  await page.evaluate(`document.querySelectorAll('details').forEach((e) => (e.open = true))`)
  await made(page)
}

/** A run's folder of its own, to be damaged. */
function copy(of: string): string {
  const folder = join(temporaryFolder('report'), 'copy')
  cpSync(of, folder, { recursive: true })
  return folder
}
const line = (entry: object): string => `${JSON.stringify(entry)}\n`

async function refusal(act: Promise<unknown>): Promise<string> {
  const error = await act.then(
    () => undefined,
    (e: unknown) => e,
  )
  if (!(error instanceof InputError)) throw error ?? new Error('nothing was refused')
  assert.match(error.message, /^[^\n]+\.$/)
  return error.message
}

test('a run records what it is, and writes its report when it ends, without a notice', async () => {
  assert.equal(notices, [])
  const about = JSON.parse(readFileSync(join(wide, 'run.json'), 'utf8'))
  assert.equal(about.samples, { training: 12, validation: 5 })
  assert.is(about.config.train.epochs, 8)
  assert.match(about.model.fingerprint, /^[0-9a-f]{64}$/)
  assert.ok(existsSync(join(wide, 'report.html')))
  const { course, gaps } = await readRun(wide)
  assert.equal(gaps, [])
  assert.equal(
    course.curves.step,
    Array.from({ length: 24 }, (_, i) => i + 1),
  )
  assert.is(course.validations.length, 8 + 8)
  assert.ok(course.validations.every((v) => v.valLoss! > 0))
})

inBrowser('curves have summaries and tables, and figures are those of the log', async () => {
  const { page, problems, close } = await open(join(wide, 'report.html'))
  assert.is(await page.title(), 'Run wide')
  const charts = await page.locator('.chart').evaluateAll((all) => all.map((e) => [e.role, e.ariaLabel]))
  assert.is(charts.length, 10)
  for (const [role, label] of charts) {
    assert.is(role, 'img')
    assert.match(label!, /: .*\d.* at step \d+\.$/)
  }
  assert.is(await page.locator('.chart canvas').count(), charts.length)
  const loss = page.locator('figure', { hasText: 'Loss per answer token' }).first()
  await loss.getByText('As a table').click()
  await made(page)
  const { course } = await readRun(wide)
  assert.equal(
    await loss.locator('details tbody td:nth-child(2)').allTextContents(),
    course.curves.loss.map((x) => String(Number(x!.toPrecision(4)))),
  )
  const last = course.validations.at(-1)!
  assert.equal((await texts(page, '#validations tbody tr:last-child > *')).slice(0, 4), [
    String(last.step),
    `${last.epoch}, its end`,
    String(Number(last.loss!.toPrecision(4))),
    `${(100 * last.accuracy!).toFixed(1)} %`,
  ])
  const about = JSON.parse(readFileSync(join(wide, 'run.json'), 'utf8'))
  assert.ok((await texts(page, '#configuration td')).includes(about.model.fingerprint))
  await page.getByText('The whole configuration').click()
  await made(page)
  const keys = await texts(page, '#configuration details th[scope=row]')
  for (const key of ['train.epochs', 'lora.r', 'dar.mode', 'data.sampling']) assert.ok(keys.includes(key), key)
  // Each part is named by its heading, and the header leads to each.
  const parts = (await page.evaluate(
    `[...document.querySelectorAll('main > section')].map((e) => [e.id, document.getElementById(e.getAttribute('aria-labelledby'))?.textContent])`,
  )) as [string, string][]
  assert.ok(parts.every(([id, heading]) => id && heading))
  assert.equal(
    await page.locator('header nav a').evaluateAll((all) => all.map((e) => e.getAttribute('href'))),
    parts.map(([id]) => `#${id}`),
  )
  assert.equal(problems, [])
  await close()
})

inBrowser('dark follows the system and the button; charts are drawn anew; texts can be read', async () => {
  const { page, problems, close } = await open(join(wide, 'report.html'), { colorScheme: 'dark' })
  const button = page.getByRole('button', { name: 'Dark' })
  assert.is(await button.getAttribute('aria-pressed'), 'true')
  const ink = (): Promise<string> => page.evaluate(`document.querySelector('.chart canvas').toDataURL()`)
  const dark = await ink()
  await button.click()
  assert.is(await button.getAttribute('aria-pressed'), 'false')
  await page.waitForTimeout(50)
  assert.is.not(await ink(), dark)
  for (const theme of ['light', 'dark'] as const) {
    const ratios = await contrasts(
      page,
      theme,
      'h1, h2, a, button, dt, dd, figcaption, caption, summary, th, td, li, p',
    )
    assert.ok(ratios.length > 60, String(ratios.length))
    for (const [text, ratio] of ratios) assert.ok(ratio >= 4.5, `${theme}: "${text}" has ${ratio.toFixed(2)}`)
  }
  assert.equal(problems, [])
  await close()
})

inBrowser(
  'on a phone nothing is wider than the screen, and the keyboard reaches all in the order of the page',
  async () => {
    const { page, problems, close } = await open(join(wide, 'report.html'), {
      viewport: { width: 360, height: 740 },
      hasTouch: true,
      isMobile: true,
    })
    await picture(page, join(docs, 'phone.png'), '#clips article:first-child')
    await unfold(page)
    assert.is(await page.evaluate('document.documentElement.scrollWidth'), 360)
    const wanted = (await page.evaluate(
      `[...document.querySelectorAll('a, button, summary, [tabindex="0"]')].map((e) => e.textContent.trim().slice(0, 40))`,
    )) as string[]
    const reached: string[] = []
    for (let i = 0; i < wanted.length; i++) {
      await page.keyboard.press('Tab')
      reached.push((await page.evaluate('document.activeElement.textContent.trim().slice(0, 40)')) as string)
    }
    assert.equal(reached, wanted)
    assert.equal(problems, [])
    await close()
  },
)

inBrowser('runs are compared: curves of each, and the keys that differ', async () => {
  const path = join(world.root, 'compared.html')
  const { gaps } = await writeReport(wide, { compare: [narrow], output: path })
  assert.equal(gaps, [])
  const { page, problems, close } = await open(path, { colorScheme: 'dark' })
  const label = (await page.locator('#curves .chart').first().getAttribute('aria-label'))!
  assert.match(label, /wide: [\d.]+ at step 24; narrow: [\d.]+ at step 18\.$/)
  assert.equal((await texts(page, '#runs thead th')).slice(1), ['wide', 'narrow'])
  const differ = page.locator('#configuration table', { hasText: 'keys that differ' })
  assert.equal(
    (await differ.locator('th[scope=row]').allTextContents()).filter((key) => key !== 'output'),
    ['train.epochs', 'train.lr', 'train.schedule', 'train.metric'],
  )
  assert.equal(problems, [])
  await close()
})

inBrowser(
  'losses that are not finite are gaps; ids and reasons are texts, however long and whatever they hold',
  async () => {
    const folder = copy(wide)
    const odd = `<img src=x onerror="alert(1)"></script><script>alert(2)</script>${'x'.repeat(1000)}`
    appendFileSync(
      join(folder, 'metrics.jsonl'),
      line({ kind: 'step', step: 25, steps: 99, epoch: 9, loss: null, tokens: 8, norm: null, lr: 1e-3, bad: odd }) +
        line({
          kind: 'step',
          step: 26,
          steps: 99,
          epoch: 9,
          loss: 7,
          tokens: 8,
          lr: 1e-3,
          spike: 9.5,
          samples: [odd],
        }) +
        '{"kind":"step","step":27,"lo',
    )
    const evaluation = await readEvaluation(folder)
    for (const sample of evaluation.samples) Object.assign(sample, { prompt: odd, task: odd, answer: odd, text: odd })
    evaluation.samples[evaluation.best[0]!]!.id = odd
    writeFileSync(join(folder, 'evaluation.json'), JSON.stringify(evaluation))
    const { gaps } = await writeReport(folder)
    assert.match(gaps.join(), /metrics\.jsonl: 1 line is damaged and left out\.$/)
    const { page, problems, close } = await open(join(folder, 'report.html'), { viewport: { width: 360, height: 740 } })
    page.on('dialog', (d) => void problems.push(d.message()))
    await unfold(page)
    assert.ok((await texts(page, '#validations td')).includes(odd))
    assert.is((await texts(page, '#clips article:first-child p'))[0], odd)
    assert.match((await texts(page, '#clips article:first-child h4'))[0]!, /^<img src=x onerror=.*…/)
    assert.is(await page.locator('main [onerror], main script, main [src=x]').count(), 0)
    const loss = page.locator('figure', { hasText: 'Loss per answer token' }).first()
    assert.equal(await loss.locator('details tbody tr:nth-last-child(-n+2) td:nth-child(2)').allTextContents(), [
      '–',
      '7',
    ])
    assert.match((await texts(page, '#gaps li')).join(), /1 line is damaged/)
    assert.is(await page.evaluate('document.documentElement.scrollWidth'), 360)
    assert.equal(problems, [])
    await close()
  },
)

inBrowser('a run without validation samples, and one whose folder was copied half, show what is missing', async () => {
  await train(trainConfig(world, 'bare', { train: { epochs: 1, report: true }, data: { val: undefined } }))
  const bare = await open(join(world.root, 'bare', 'report.html'))
  assert.match((await texts(bare.page, '#curves .notes')).join(), /no numbers for: Right answers on the validation/)
  assert.equal(bare.problems, [])
  await bare.close()

  const half = copy(wide)
  rmSync(join(half, 'run.json'))
  writeFileSync(join(half, 'metrics.jsonl'), readFileSync(join(half, 'metrics.jsonl')).subarray(0, 700))
  const { gaps } = await writeReport(half)
  assert.match(gaps.join('\n'), /run\.json is missing/)
  const { page, problems, close } = await open(join(half, 'report.html'))
  assert.match((await texts(page, '#gaps li')).join('\n'), /damaged and left out.*\n.*run\.json is missing/)
  await page.getByText('The whole configuration').click() // as the last save has it
  await made(page)
  assert.ok((await texts(page, '#configuration details th[scope=row]')).includes('train.epochs'))
  assert.equal(problems, [])
  await close()
})

test('up to 200 samples are answered once more, by the best adapter and by the untrained model', async () => {
  const recorded = await readEvaluation(wide)
  const samples = await readManifest(world.val)
  using model = await openModel(world.model, { adapter: join(wide, 'best') })
  using bare = await openModel(world.model)
  for (const [who, of] of [
    ['trained', model],
    ['untrained', bare],
  ] as const) {
    const predictions = []
    for await (const p of evaluate(of, samples, { frames: 3 })) predictions.push(p)
    assert.equal(
      recorded.samples.map((s) => [s.id, s.answer, s[who]!.prediction, s[who]!.correct, s[who]!.losses, s[who]!.loss]),
      predictions.map((p) => [p.id, p.answer, p.prediction, p.correct, p.losses, p.losses![p.answer]]),
    )
  }
  assert.is(recorded.adapter, 'best')
  assert.is(recorded.step, (await readRun(wide)).course.validations.findLast((v) => v.best)!.step)
  assert.equal([...recorded.best, ...recorded.worst].sort(), [0, 1, 2, 3, 4])
  for (const i of [...recorded.best, ...recorded.worst]) {
    const { frames } = recorded.clips[i]!
    assert.ok(frames.length === 3 && frames[0]!.time < frames[2]!.time, String(i))
  }
  // Without choices the loss is that of the expected answer; a clip that is gone is left out, with the reason.
  const open = samples.map(({ choices, ...s }, i) => ({
    ...s,
    ...(i === 1 && { video: join(world.root, 'gone.mp4') }),
  }))
  const { checkpoint, adapter } = model
  const features = new Features(checkpoint, { frames: 3, sampling: { kind: 'uniform' } })
  const answering = { checkpoint, adapter: adapter!, features, samples: open, split: 'validation', name: 'best' }
  const { samples: found, lost } = await recordEvaluation(answering)
  assert.equal(
    found.map((s) => s.id),
    samples.filter((_, i) => i !== 1).map((s) => s.id),
  )
  assert.is(lost.length, 1)
  assert.match(lost[0]!.error, /gone\.mp4/)
  for (const s of found) {
    const closed = recorded.samples.find((r) => r.id === s.id)!
    assert.ok(Math.abs(s.trained.loss! - closed.trained.loss!) < 1e-4, s.id)
    assert.ok(Math.abs(s.untrained!.loss! - closed.untrained!.loss!) < 1e-4, s.id)
    assert.is(s.trained.losses, undefined)
  }
})

test('the record tells whether the video is looked at, by the same questions with other pictures', async () => {
  const { probe, samples } = await readEvaluation(wide)
  assert.equal(
    probe!.rows.map((r) => r.view),
    ['as they are', 'shuffled', 'one repeated', 'blank', "another clip's", 'text alone'],
  )
  assert.equal([probe!.metric, probe!.samples], ['accuracy', samples.length])
  const right = samples.filter((s) => s.trained.correct).length
  assert.is(probe!.rows[0]!.value, right / samples.length)
  // Five questions about two clips show nothing for sure.
  assert.not.ok(probe!.video)
  assert.ok(probe!.findings.length)
})

inBrowser('the page shows the probe, and warns where the video makes no difference', async () => {
  const { page, problems, close } = await open(join(wide, 'report.html'))
  const { probe } = await readEvaluation(wide)
  assert.equal(
    await texts(page, '#probe tbody tr > :first-child'),
    probe!.rows.map((r) => r.view),
  )
  assert.equal((await texts(page, '#probe tbody tr:nth-child(2) > *')).slice(1, 3), [
    `${(100 * probe!.rows[1]!.value).toFixed(1)} %`,
    `${(100 * probe!.rows[1]!.changed).toFixed(1)} %`,
  ])
  assert.is((await texts(page, '#probe p.failed'))[0], `Warning: ${probe!.findings[0]}.`)
  assert.equal(problems, [])
  await close()
})

test('what routers choose is recorded at each validation, once, also where a run is resumed', async () => {
  const { routers, course } = await readRun(wide)
  assert.equal(
    routers.map((r) => [r.step, r.samples]),
    course.validations.map((v) => [v.step, 5]),
  )
  // Layers of the tiny model choose among 1, 1, … masks up to 4; each row is a mean of weights that sum to 1.
  const widths = routers[0]!.spatial.map((masks) => masks.length)
  assert.ok(widths[0] === 1 && widths.at(-1)! > 1)
  for (const { spatial, temporal } of routers)
    for (const masks of [...spatial, ...temporal])
      assert.ok(Math.abs(masks.reduce<number>((a, b) => a + b!, 0) - 1) < 2e-3)
  assert.not.equal(routers[0]!.temporal, routers.at(-1)!.temporal)

  const config = trainConfig(world, 'resumed', { train: { epochs: 1, report: true, evalEvery: 1, log: ['csv'] } })
  await train(config)
  const lines = (): number[] => jsonLines(join(config.output, 'routers.jsonl')).map((l) => l.step)
  assert.equal(lines(), [1, 2, 3])
  appendFileSync(join(config.output, 'routers.jsonl'), line({ kind: 'routers', step: 4, epoch: 2 }))
  const longer = { ...config, train: { ...config.train, epochs: 2 } }
  await train(longer, { resume: true, extend: true })
  assert.equal(lines(), [1, 2, 3, 4, 5, 6])
  assert.not.match(readFileSync(join(config.output, 'metrics.csv'), 'utf8'), /routers/)
  const about = JSON.parse(readFileSync(join(config.output, 'run.json'), 'utf8'))
  assert.is(about.resumed.length, 1)
  assert.ok(about.started < about.resumed[0])
  assert.match((await readRun(config.output)).gaps.join(), /metrics\.jsonl is missing/)
})

test("a sample's router weights are what it gives alone; attention over time sums to 1 in each layer", async () => {
  using model = await openModel(world.model, { adapter: join(wide, 'best') })
  const samples = await readManifest(world.val)
  const { checkpoint, adapter } = model
  const features = new Features(checkpoint, { frames: 3, sampling: { kind: 'uniform' } })
  const watched = { checkpoint, adapter: adapter!, features }
  const all = await routerWeights(watched, samples)
  const alone = await routerWeights(watched, samples.slice(3, 4))
  const near = (a: number[][], b: number[][]): boolean =>
    a.every((masks, m) => masks.every((x, j) => Math.abs(x - b[m]![j]!) < 5e-4))
  assert.ok(near(all[3]!.spatial, alone[0]!.spatial) && near(all[3]!.temporal, alone[0]!.temporal))
  const recorded = await readEvaluation(wide)
  assert.equal(
    recorded.samples.map((s) => s.alpha),
    all,
  )
  for (const i of [0, 4]) {
    const weights = (await temporalWeights(watched, samples[i]!))!
    assert.equal(weights, recorded.clips[i]!.weights)
    assert.is(weights.length, checkpoint.model.config.qformer.layers)
    for (const layer of weights) assert.ok(layer.length === 3 && Math.abs(layer[0]! + layer[1]! + layer[2]! - 1) < 1e-3)
  }
  assert.not.equal(recorded.clips[0]!.weights, recorded.clips[4]!.weights)
  const joint = new Adapter(checkpoint.model.config, parseAdapterConfig({ frames: 3, temporal: { attention: 'none' } }))
  assert.is(await temporalWeights({ ...watched, adapter: joint }, samples[0]!), undefined)
  joint.dispose()
})

inBrowser('routers as maps over training and by sample, with tables; frames with the attention to them', async () => {
  const { page, problems, close } = await open(join(wide, 'report.html'))
  const { routers } = await readRun(wide)
  const maps = page.locator('#routers [role=img]')
  assert.is(await maps.count(), 4)
  for (const map of await maps.all()) {
    assert.match((await map.getAttribute('aria-label'))!, /layer \d+, M0: \d+\.\d %; layer \d+, M1: /)
    const inked = await map
      .locator('canvas')
      .evaluate((c: any) => new Set(c.getContext('2d').getImageData(0, 0, c.width, c.height).data).size)
    assert.ok(inked > 20, String(inked))
  }
  const figure = page.locator('#routers figure', { hasText: 'Attention over time, over training' })
  await figure.locator('summary').click()
  await made(page)
  const [, ...cells] = await figure.locator('tbody tr').last().locator('th, td').allTextContents()
  const last = routers
    .at(-1)!
    .temporal.filter((masks) => masks.length > 1)
    .flat()
  assert.equal(
    cells,
    last.map((x) => `${(100 * x!).toFixed(1)} %`),
  )
  await figure.locator('canvas').hover({ position: { x: 200, y: 7 } })
  assert.match((await figure.locator('p').textContent())!, /^layer \d+, M0, step \d+: \d+\.\d %$/)
  const card = page.locator('#clips article').first()
  const alts = await card.locator('img').evaluateAll((all: any[]) => all.map((e) => e.alt))
  assert.ok(
    alts.every((alt, i) => new RegExp(`^Frame ${i + 1}, at \\d\\.\\d\\d s, attention \\d+\\.\\d %$`).test(alt)),
    alts.join(),
  )
  await card.getByText('Attention over time, by layer').click()
  await made(page)
  assert.ok((await card.locator('table', { hasText: 'each frame' }).locator('tbody tr').count()) > 3)
  assert.equal(problems, [])
  await page.reload()
  await page.locator('#curves canvas').first().waitFor()
  for (const part of ['curves', 'routers', 'answers', 'clips'])
    await picture(page, join(docs, `${part}.png`), `#${part}`)
  await close()
})

test('best and worst clips: right ones first, then by the loss; never one in both lists; many are spread', () => {
  const made = (correct: boolean, loss: number | null) => ({ trained: { prediction: '', correct, loss } })
  const { best, worst } = extremes([made(false, 1), made(true, 9), made(true, 2), made(false, 3), made(false, null)])
  assert.equal(best, [2, 1, 0])
  assert.equal(worst, [4, 3])
  const many = Array.from({ length: 500 }, (_, i) => made(i % 2 === 0, i))
  assert.equal(extremes(many).best, [0, 2, 4, 6, 8, 10, 12, 14, 16, 18])
  assert.equal(extremes(many).worst, [499, 497, 495, 493, 491, 489, 487, 485, 483, 481])
  assert.equal(extremes([]), { best: [], worst: [] })
  const some = spread(Array.from({ length: 1000 }, (_, i) => i))
  assert.is(some.length, 200)
  assert.equal(some.slice(0, 3), [0, 5, 10])
  assert.equal(spread([7]), [7])
})

inBrowser('answers, confusions, and the best and the worst clips with their frames', async () => {
  const { page, problems, close } = await open(join(wide, 'report.html'))
  const { samples, best, worst } = await readEvaluation(wide)
  const all = await texts(page, '#answers .wide:first-of-type tbody tr:last-child > *')
  const right = (who: 'trained' | 'untrained'): string =>
    `${((100 * samples.filter((s) => s[who]!.correct).length) / samples.length).toFixed(1)} %`
  assert.equal(all.slice(0, 4), ['all', '5', right('trained'), right('untrained')])
  const counts = samples.filter((s) => s.task === 'count')
  const rows = page.locator('#answers table', { hasText: 'Task count' }).locator('tbody tr')
  assert.is(await rows.count(), new Set(counts.map((s) => s.answer)).size)
  const cards = page.locator('#clips article')
  assert.equal(
    (await cards.locator('h4').allTextContents()).map((t) => t.split(',')[0]),
    [...best, ...worst].map((i) => samples[i]!.id),
  )
  for (const [n, i] of [...best, ...worst].entries()) {
    const card = cards.nth(n)
    const { prompt, answer, trained } = samples[i]!
    assert.ok((await card.textContent())!.includes(prompt))
    assert.equal((await card.locator('dd').allTextContents()).slice(0, 2), [
      answer,
      `${trained.prediction} (${trained.correct ? 'right' : 'wrong'})`,
    ])
    assert.equal(
      await card.locator('img').evaluateAll((all) => all.map((e: any) => [e.complete && e.naturalWidth > 0, !!e.alt])),
      [1, 2, 3].map(() => [true, true]),
    )
  }
  await unfold(page)
  assert.ok((await texts(page, '#clips article:first-child details td')).length > 2)
  assert.equal(problems, [])
  await close()
})

test('report --evaluate answers the samples of a run that did not', async () => {
  const folder = copy(wide)
  rmSync(join(folder, 'evaluation.json'))
  const before = await cli('report', folder)
  assert.is(before.code, 0)
  assert.match(before.err, /^mtransllama: evaluation\.json is missing.*--evaluate records them\.\n$/)
  const { code, out, err } = await cli('report', folder, '--evaluate', '--device', 'cpu')
  assert.is(code, 0, err)
  assert.is(err, '')
  assert.is(out, `${join(folder, 'report.html')}\n`)
  const [a, b] = [await readEvaluation(folder), await readEvaluation(wide)]
  assert.equal({ ...a, made: '' }, { ...b, made: '' })
})

test('what is no run, is damaged, or cannot be written is one sentence, and nothing is half-written', async () => {
  assert.match(await refusal(writeReport(join(world.root, 'no such run'))), /expected the folder of a run/)
  assert.match(await refusal(writeReport(join(world.root, 'clips'))), /there is no metrics\.jsonl, no run\.json/)
  assert.match(await refusal(writeReport(wide, { compare: Array(6).fill(narrow) })), /at most 5 runs, but got 6/)
  assert.match(await refusal(writeReport(wide, { output: join(wide, 'no', 'page.html') })), /its folder does not exist/)
  assert.match(await refusal(writeReport(wide, { output: join(wide, 'last') })), /cannot be written: that is a folder/)
  const folder = copy(wide)
  writeFileSync(join(folder, 'run.json'), '{"format": "mtransllama-run", "version": 2}')
  writeFileSync(join(folder, 'evaluation.json'), readFileSync(join(wide, 'evaluation.json')).subarray(0, 999))
  const { gaps } = await writeReport(folder)
  assert.match(gaps.join('\n'), /run\.json: version: expected 1.*\n.*evaluation\.json: not JSON/)
  if (process.getuid?.() !== 0) {
    chmodSync(folder, 0o500)
    assert.match(await refusal(writeReport(folder)), /there is no permission/)
    chmodSync(folder, 0o700)
  }
  assert.equal(
    readdirSync(folder).filter((name) => name.startsWith('.')),
    [],
  )
  mkdirSync(join(folder, 'empty'))
  const { code, out, err } = await cli('report', join(folder, 'empty'))
  assert.is(code, 1)
  assert.is(out, '')
  assert.match(err, /^mtransllama: [^\n]+expected the folder of a run[^\n]+\n$/)
})

test('a report that cannot be written does not end its run', async () => {
  const config = trainConfig(world, 'refused', { train: { epochs: 1, report: true }, data: { val: undefined } })
  mkdirSync(join(config.output, 'report.html', 'taken'), { recursive: true })
  const heard: string[] = []
  const { best } = await train(config, { onNotice: (sentence) => void heard.push(sentence) })
  assert.ok(existsSync(best))
  assert.is(heard.length, 1)
  assert.match(
    heard[0]!,
    /^report\.html: .*cannot be written: that is a folder .*; the run itself is not touched by that\.$/,
  )
})

test.run()
