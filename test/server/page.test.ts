// The page in a browser: a question asked about an uploaded clip, the answer streamed, two adapters side by side, a
// training followed live, a token, dark and light, a phone. MT_SCREENSHOTS=1 writes the pictures of docs/serve.md.
import { appendFileSync, mkdirSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import type { Browser, BrowserContextOptions, Page } from 'playwright-core'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { browserPath, contrasts, openBrowser, picture as save } from '../support/browser.js'
import { train } from '../../lib/train/loop.js'
import { temporaryFolder } from '../support/tiny.js'
import { trainConfig } from '../support/world.js'
import { gated, serve, until, type Served } from './support.js'

const docs = fileURLToPath(new URL('../../docs/serve/', import.meta.url))
const program = browserPath()
if (!program)
  console.error(
    'test/server/page: SKIPPED, nothing tests the page: chromium is not installed (apt-get install chromium), nor named by CHROMIUM',
  )
let browser: Browser
const inBrowser = program ? test : test.skip
test.before(async () => {
  if (program) browser = await openBrowser(program)
})
test.after(async () => {
  if (program) await browser.close()
})

/** A page, and what went wrong on it. */
async function open(server: Served, options: BrowserContextOptions = {}, hash = '') {
  const context = await browser.newContext({ viewport: { width: 1000, height: 900 }, ...options })
  const page = await context.newPage()
  page.setDefaultTimeout(30_000)
  const problems: string[] = []
  page.on('pageerror', (error) => problems.push(String(error)))
  page.on('console', (m) => {
    if (m.type() === 'error' && !/status of 401/.test(m.text())) problems.push(m.text())
  })
  page.on('request', (r) => {
    if (!r.url().startsWith(server.url) && !/^(data|blob):/.test(r.url())) problems.push(`it asks ${r.url()}`)
  })
  await page.goto(`${server.url}/${hash}`)
  return { page, problems, close: () => context.close() }
}

const picture = (page: Page, name: string): Promise<void> => save(page, join(docs, `${name}.png`))

inBrowser(
  'a clip is uploaded, its frames are shown, a question is asked, and the answers stream side by side',
  async () => {
    const gate = gated()
    const server = await serve({}, gate.around)
    const { page, problems, close } = await open(server)
    await page.locator('#models input[value=one]').waitFor()
    await page.getByLabel('Question', { exact: true }).fill('how many objects move ?')
    await page.getByRole('button', { name: 'Ask' }).click()
    assert.match((await page.getByRole('alert').textContent())!, /Upload or choose a clip first/)
    await page.getByLabel('Upload a video').setInputFiles(server.clip)
    await page.getByRole('img', { name: 'Frame 3, at' }).waitFor()
    assert.is(await page.locator('#frames img').count(), 3)
    await page.getByLabel('What is said in the clip').fill('the red circle moves')
    await page.locator('#models input[value=two]').check()
    await page.getByRole('button', { name: 'Ask' }).click()
    // One is being answered, its first word is shown while the rest is still to come.
    const answers = page.locator('#answers output')
    await until(async () => (await answers.allTextContents()).filter(Boolean).length === 1)
    assert.is(gate.ended.length, 0)
    const early = (await answers.allTextContents()).find(Boolean)!
    gate.open()
    await page.getByText('answered', { exact: true }).waitFor()
    const whole = await answers.allTextContents()
    assert.ok(whole.some((text) => text.startsWith(early) && text.length > early.length))
    const { choices } = await server.client.chat.completions.create({
      model: 'one',
      max_tokens: 64,
      dialogue: 'the red circle moves',
      messages: [
        {
          role: 'user',
          content: [
            { type: 'text', text: 'how many objects move ?' },
            { type: 'video_url', video_url: { url: `data:video/mp4;base64,${server.bytes.toString('base64')}` } },
          ],
        },
      ],
    } as any)
    assert.is(whole[0], choices[0]!.message.content)
    assert.is.not(whole[1], whole[0])
    assert.match((await page.locator('#answers .notes').first().textContent())!, /^\d+ tokens from \d+, /)
    assert.equal(problems, [])
    await picture(page, 'ask')
    await page.getByRole('button', { name: 'Dark' }).click()
    assert.is(await page.getByRole('button', { name: 'Dark' }).getAttribute('aria-pressed'), 'true')
    await picture(page, 'ask-dark')
    assert.is((await server.client.files.list()).data.length, 1)
    await close()
    await until(async () => (await server.client.files.list()).data.length === 0) // the page deletes what it uploaded
    await server.close()
  },
)

inBrowser('an answer can be stopped, and a clip that is no video is explained', async () => {
  const gate = gated()
  const server = await serve({}, gate.around)
  const { page, problems, close } = await open(server)
  await page.getByLabel('Question', { exact: true }).fill('what moves ?')
  await page.getByLabel('Upload a video').setInputFiles({
    name: 'words.mp4',
    mimeType: 'video/mp4',
    buffer: Buffer.from('words '.repeat(99)),
  })
  await page.getByText('The file does not begin as a video does').waitFor()
  await page.getByLabel('Upload a video').setInputFiles(server.clip)
  await page.getByRole('img', { name: 'Frame 1, at' }).waitFor()
  assert.is(await page.getByRole('alert').isVisible(), false)
  await page.getByRole('button', { name: 'Ask' }).click()
  await until(() => gate.begun.length === 1)
  await page.getByRole('button', { name: 'Stop' }).click()
  await page.locator('#status').getByText('stopped').waitFor()
  await until(() => gate.ended.length === 1)
  assert.equal(
    problems.filter((p) => !/status of 415/.test(p)),
    [],
  )
  await close()
  await server.close()
})

inBrowser('a clip of the folder is chosen, and a part of it', async () => {
  const gate = gated()
  gate.open()
  const { world, close: end } = await serve()
  await end()
  const server = await serve({ clips: join(world.root, 'clips', 'val') }, gate.around)
  const { page, problems, close } = await open(server)
  await page.getByLabel('or choose one').selectOption('000001.mp4')
  const captions = page.locator('#frames span')
  await until(async () => (await captions.count()) === 3)
  const whole = await captions.allTextContents()
  await page.getByText('A part of the clip').click()
  await page.getByLabel('from').fill('0.5')
  await page.getByLabel('from').press('Tab')
  await until(async () => {
    const now = await captions.allTextContents()
    return now.length === 3 && now.every((time) => Number.parseFloat(time) >= 0.4) && now.join() !== whole.join()
  })
  await page.getByLabel('from').fill('100')
  await page.getByLabel('from').press('Tab')
  await page.getByText(/^start: expected a time before the end of 000001\.mp4/).waitFor()
  assert.equal(
    problems.filter((p) => !/status of 400/.test(p)),
    [],
  )
  await close()
  await server.close()
})

inBrowser('a training is followed while it runs', async () => {
  const runs = temporaryFolder('page-runs')
  mkdirSync(join(runs, 'gated'))
  const log = join(runs, 'gated', 'metrics.jsonl')
  const write = (entry: object): void => appendFileSync(log, `${JSON.stringify(entry)}\n`)
  const rates = { lr: 1e-4, seconds: 0.05, tokensPerSecond: 480, waiting: 0.01, memory: 90 * 2 ** 20 }
  const step = (n: number): void => {
    const loss = 2.5 * Math.exp(-n / 60) + 0.25 + 0.15 * Math.sin(n * 12.9898)
    write({
      kind: 'step',
      loss,
      tokens: 24,
      norm: 1,
      epoch: Math.ceil(n / 50),
      step: n,
      steps: 400,
      factor: 1,
      ...rates,
    })
  }
  const epoch = (n: number): void =>
    write({
      kind: 'epoch',
      epoch: n,
      loss: 2.5 * Math.exp(-n / 1.2) + 0.25,
      accuracy: 1 - 0.7 * Math.exp(-n / 2),
      best: true,
    })
  writeFileSync(log, '')
  for (let n = 1; n <= 250; n++) {
    step(n)
    if (n % 50 === 0) epoch(n / 50)
  }
  const server = await serve({ runs, interval: 20 })
  const { page, problems, close } = await open(server, { colorScheme: 'dark' })
  const value = (name: string) => page.locator('#figures div', { hasText: name }).first().locator('dd')
  await value('step').getByText('250 of 400', { exact: true }).waitFor()
  assert.is(await page.locator('#loss canvas').count(), 1)
  assert.match((await page.locator('#loss').getAttribute('aria-label'))!, /^Loss: \d.* at step 250 of 400$/)
  for (let n = 251; n <= 300; n++) step(n)
  epoch(6)
  await value('step').getByText('300 of 400', { exact: true }).waitFor()
  await value('best validation').getByText('96.5 % (step 300)', { exact: true }).waitFor()
  assert.is(await page.locator('#validations tr').count(), 6)
  assert.is(await page.locator('#accuracy canvas').count(), 1)
  // What is drawn is not empty: the middle of the chart has pixels of the line's colour.
  const drawn = await page.locator('#loss canvas').evaluate((canvas) => {
    const c = canvas as unknown as { width: number; height: number; getContext(k: string): any }
    const { data } = c.getContext('2d').getImageData(0, 0, c.width, c.height)
    let n = 0
    for (let i = 0; i < data.length; i += 4) if (data[i + 3] > 0 && data[i + 2] > data[i] + 40) n++
    return n
  })
  assert.ok(drawn > 300, `${drawn} pixels`)
  assert.equal(problems, [])
  await picture(page, 'trainings')
  await close()
  await server.close()
})

inBrowser('a real training is followed from its first step to its last', async () => {
  const { world, close: end } = await serve()
  await end()
  const server = await serve({ runs: world.root, interval: 20 })
  const { page, problems, close } = await open(server)
  await page.getByText('no run yet').waitFor()
  const steps: string[] = []
  const { best } = await train(trainConfig(world, 'live', { train: { epochs: 4 } }), {
    onStep: (e) => void steps.push(`${e.step} of ${e.steps}`),
  })
  assert.ok(steps.length > 4 && best)
  const value = (name: string) => page.locator('#figures div', { hasText: name }).first().locator('dd')
  await value('step').getByText(steps.at(-1)!, { exact: true }).waitFor()
  await until(async () => (await page.locator('#validations tr').count()) === 4)
  assert.is(await page.locator('#run').inputValue(), 'live')
  assert.match((await value('best validation').textContent())!, /^\d+\.\d % \(step \d+\)$/)
  assert.match((await value('learning rate').textContent())!, /^0\.003$/)
  assert.match((await value('memory').textContent())!, /^\d+ MiB$/)
  assert.equal(problems, [])
  await close()
  await server.close()
})

inBrowser('a token is asked for, or comes with the link; then it is not in the address any more', async () => {
  const server = await serve({ token: 'open sesame' })
  const first = await open(server)
  await first.page.locator('#token').fill('wrong token')
  await first.page.getByRole('button', { name: 'Continue' }).click()
  await first.page.locator('#token').fill('open sesame')
  await first.page.getByRole('button', { name: 'Continue' }).click()
  await first.page.locator('#models input[value=two]').waitFor()
  assert.equal(first.problems, [])
  await first.close()
  const second = await open(server, {}, '#token=open%20sesame')
  await second.page.locator('#models input[value=two]').waitFor()
  assert.is(await second.page.evaluate('location.hash'), '')
  assert.equal(second.problems, [])
  await second.close()
  await server.close()
})

inBrowser(
  'on a phone nothing is wider than the screen; every field has a name, and the keyboard reaches all',
  async () => {
    const runs = temporaryFolder('page-phone')
    writeFileSync(
      join(runs, 'metrics.jsonl'),
      `${JSON.stringify({ kind: 'step', step: 1, steps: 2, epoch: 1, loss: 1 })}\n`,
    )
    const server = await serve({ runs, interval: 20 })
    const { page, problems, close } = await open(server, {
      viewport: { width: 360, height: 740 },
      hasTouch: true,
      isMobile: true,
    })
    await page.locator('#models input[value=two]').waitFor()
    await page.locator('#loss canvas').waitFor()
    await page.getByLabel('Upload a video').setInputFiles(server.clip)
    await page.getByRole('img', { name: 'Frame 1, at' }).waitFor()
    assert.is(await page.evaluate('document.documentElement.scrollWidth'), 360)
    const nameless = await page.evaluate(`[...document.querySelectorAll('input, select, textarea, button')]
    .filter((e) => !e.closest('dialog') && !(e.labels?.length || e.textContent.trim() || e.ariaLabel)).map((e) => e.id)`)
    assert.equal(nameless, [])
    const reached = new Set<string>()
    for (let i = 0; i < 30; i++) {
      await page.keyboard.press('Tab')
      reached.add((await page.evaluate('document.activeElement.id || document.activeElement.value')) as string)
    }
    for (const id of ['theme', 'file', 'dialogue', 'question', 'tokens', 'one', 'two', 'ask', 'run'])
      assert.ok(reached.has(id), `${id} of ${[...reached]}`)
    // Text against its ground: at least 4.5 to 1, in both themes.
    for (const theme of ['light', 'dark'] as const) {
      const ratios = await contrasts(
        page,
        theme,
        'h1, h2, label, legend, button, a, dt, dd, figcaption, .notes, #frames span',
      )
      assert.ok(ratios.length > 20)
      for (const [text, ratio] of ratios) assert.ok(ratio >= 4.5, `${theme}: "${text}" has ${ratio.toFixed(2)}`)
    }
    assert.equal(problems, [])
    await picture(page, 'phone')
    await close()
    await server.close()
  },
)

test.run()
