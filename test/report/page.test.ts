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
import { InputError } from '../../lib/errors.js'
import { writeReport } from '../../lib/report/page.js'
import { readRun } from '../../lib/report/run.js'
import { train } from '../../lib/train/loop.js'
import { browserPath, contrasts, openBrowser, picture } from '../support/browser.js'
import { cli } from '../support/cli.js'
import { temporaryFolder } from '../support/tiny.js'
import { makeWorld, trainConfig, type World } from '../support/world.js'

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

/** Opens all that is folded; the focus stays where the page begins. */
const unfold = (page: Page): Promise<void> =>
  page.evaluate(`document.querySelectorAll('details').forEach((e) => (e.open = true))`)

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
    await picture(page, join(docs, 'phone.png'))
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
    const { gaps } = await writeReport(folder)
    assert.match(gaps.join(), /metrics\.jsonl: 1 line is damaged and left out\.$/)
    const { page, problems, close } = await open(join(folder, 'report.html'), { viewport: { width: 360, height: 740 } })
    page.on('dialog', (d) => void problems.push(d.message()))
    await unfold(page)
    assert.ok((await texts(page, '#validations td')).includes(odd))
    assert.is(await page.locator('main img, main script').count(), 0)
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
  assert.ok((await texts(page, '#configuration details th[scope=row]')).includes('train.epochs'))
  assert.equal(problems, [])
  await close()
})

test('what is no run, is damaged, or cannot be written is one sentence, and nothing is half-written', async () => {
  assert.match(await refusal(writeReport(join(world.root, 'no such run'))), /expected the folder of a run/)
  assert.match(await refusal(writeReport(join(world.root, 'clips'))), /there is no metrics\.jsonl, no run\.json/)
  assert.match(await refusal(writeReport(wide, { compare: Array(6).fill(narrow) })), /at most 5 runs, but got 6/)
  assert.match(await refusal(writeReport(wide, { output: join(wide, 'no', 'page.html') })), /its folder does not exist/)
  assert.match(await refusal(writeReport(wide, { output: join(wide, 'last') })), /cannot be written: that is a folder/)
  const folder = copy(wide)
  writeFileSync(join(folder, 'run.json'), '{"format": "mtransllama-run", "version": 2}')
  const { gaps } = await writeReport(folder)
  assert.match(gaps.join('\n'), /run\.json: version: expected 1/)
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
