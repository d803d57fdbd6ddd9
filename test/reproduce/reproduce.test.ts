// `reproduce` from made-up files in the published forms to its report: every experiment, on a tiny random model in few
// steps; Table VII's rows; a run that was killed and goes on to the same report; the study of the tiny world.
import { existsSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { makeDatasets } from '../../examples/datasets/make.js'
import { renderClips, renderStills } from '../../examples/tiny-world/render.js'
import { EXPERIMENTS, VARIANTS } from '../../lib/reproduce/experiments.js'
import { reproduce, type ReproduceOptions } from '../../lib/reproduce/reproduce.js'
import type { Report } from '../../lib/reproduce/report.js'
import type { Study } from '../../lib/reproduce/study.js'
import { openModel, type Model } from '../../lib/session/model.js'
import { start } from '../support/cli.js'
import { temporaryFolder } from '../support/tiny.js'
import { missing, writeCheckpoint } from '../support/world.js'
import { refusal } from '../support/refusal.js'

const root = temporaryFolder('reproduce')
/** Few steps of a small adapter; all runs save each step, so that a killed one resumes within an epoch. */
const settings = {
  frames: 2,
  text: { maxTokens: 16 },
  lora: { r: 2 },
  dar: { routerHidden: 4 },
  train: { epochs: 2, batch: 4, saveEvery: 1 },
}
let folders: Record<string, string>
let model: Model
const skipped = await missing('node-av/lib')
if (skipped) console.log(`SKIP: clips cannot be written here: ${skipped}`)
test.before(async () => {
  if (skipped) return
  folders = await makeDatasets(join(root, 'published'), { samples: 12, clips: true })
  model = await openModel(await writeCheckpoint(join(root, 'model')))
})
test.after(() => model?.dispose())

/** Reproduces an experiment in this process. */
async function run(
  name: string,
  out: string,
  { data, ...more }: Partial<ReproduceOptions> = {},
): Promise<{ report: Report; page: string; steps: number }> {
  let steps = 0
  const { json, page } = await reproduce(name, {
    ...{ out, model, settings, onStep: () => void steps++ },
    ...more,
    data: { source: folders[name]!, ...data },
  })
  return { report: JSON.parse(readFileSync(json, 'utf8')), page: readFileSync(page, 'utf8'), steps }
}
const out = (name: string): string => join(root, 'out', name)
/** A report without what differs from run to run. */
const steady = ({ costs, ...rest }: Report): object => rest

const MORE: Record<string, Partial<ReproduceOptions>> = {
  mustard: { data: { folds: true } },
  'mustard-star': { data: { splitting: 'seeded' }, seeds: 2 },
  'ur-funny': { variants: VARIANTS.ablations.slice(0, 3) },
  qaego4d: { variants: VARIANTS.ablations.slice(0, 3) },
  'clevrer-mc': { variants: [...VARIANTS.modalities, ...VARIANTS.choices, 'joint'] },
}

const kept = new Map<string, Report>()
for (const experiment of skipped ? [] : EXPERIMENTS)
  test(`${experiment.name}: prepared, cached, trained, evaluated, reported beside the paper`, async () => {
    const { name, paper } = experiment
    const more = name === 'mvbench' ? { data: { trainSource: folders['clevrer-mc'] } } : MORE[name]
    const { report, page, steps } = await run(name, out(name), more)
    kept.set(name, report)
    assert.ok(steps > 0)
    const variants = ['zero-shot', 'frozen-concat', 'full', ...(more?.variants ?? [])]
    assert.equal(
      report.variants.map((v) => v.variant),
      variants,
    )
    const runs = (name === 'mustard' ? 5 : 1) * (name === 'mustard-star' ? 2 : 1)
    const full = report.variants.find((v) => v.variant === 'full')!
    assert.is(full.runs, runs)
    for (const { figures } of report.variants)
      for (const f of figures) {
        assert.ok(
          f.values.every((v) => v >= 0 && v <= 100),
          f.name,
        )
        assert.ok(Math.abs(f.mean - f.values.reduce((a, b) => a + b) / f.values.length) < 1e-9)
        assert.is(f.deviation === undefined, f.values.length === 1)
        if (f.paper !== undefined) assert.ok(Math.abs(f.difference! - (f.mean - f.paper)) < 1e-9)
      }
    // Every figure of the paper has ours beside it, where its metric can be computed here.
    for (const [variant, figures] of Object.entries(paper.figures)) {
      const own = report.variants.find((v) => v.variant === variant)
      for (const [metric, value] of Object.entries(figures)) {
        const found = own?.figures.find((f) => f.name.replace('/own-tokens', '') === metric)
        if (found) assert.is(found.paper, value, metric)
        else assert.ok(!own || metric.startsWith('meteor'), `${variant}: ${metric}`)
      }
    }
    assert.ok(report.data.counts.some((c) => c.paper !== undefined && c.found !== c.paper) || paper.table === 'none')
    const { visual, concatenated, fusion, withoutFusion } = report.promptTokens
    assert.is(concatenated, 2 * visual)
    assert.ok(withoutFusion >= fusion && fusion > 0)
    if (['mustard', 'mustard-star', 'ur-funny'].includes(name)) assert.ok(withoutFusion > fusion, 'the dialogue moves')
    assert.ok(report.sideBySide.length >= 1 && report.sideBySide.length <= 10)
    const shown = ['zero-shot', ...(variants.includes('without-mqt') ? ['without-mqt'] : []), 'full']
    for (const s of report.sideBySide) assert.equal(Object.keys(s.predictions), shown)
    for (const cost of report.costs)
      assert.is(cost.trained > 0 && cost.trainingSeconds > 0 && cost.peakBytes > 0, !/zero|frozen/.test(cost.variant))
    assert.equal(report.analysis.groups.length > 0, name.startsWith('mustard'), 'shows')
    assert.match(readFileSync(join(out(name), report.analysis.page), 'utf8'), /^<!doctype html>/i)
    assert.match(page, /^# .+: reproduced\n/)
    for (const v of report.variants) assert.ok(page.includes(`| ${v.variant} | `), v.variant)
    // Called again it does nothing, and says the same.
    const times = (): number[] =>
      readdirSync(join(out(name), 'runs')).map((f) => statSync(join(out(name), 'runs', f, 'result.json')).mtimeMs)
    const before = times()
    const again = await run(name, out(name), more)
    assert.is(again.steps, 0)
    assert.equal(times(), before)
    assert.equal(again.report, report)
  })

if (!skipped) {
  test('killed in the middle of a training, the same command goes on to the same report', async () => {
    const file = join(root, 'settings.yaml')
    writeFileSync(file, JSON.stringify(settings))
    const folder = out('killed')
    const command = [
      ...['reproduce', 'ur-funny', '--source', folders['ur-funny']!, '--model', join(root, 'model'), '--out', folder],
      ...['--variants', ...VARIANTS.ablations.slice(0, 3), '--settings', file],
    ]
    const first = start(...command)
    await first.until(/run 4 of 6: without-fusion\.seed-0/)
    const state = join(folder, 'runs', 'without-fusion.seed-0', 'last', 'training.json')
    for (let i = 0; i < 2000 && !existsSync(state); i++) await new Promise((resolve) => setTimeout(resolve, 2))
    first.process.kill('SIGKILL')
    assert.is((await first.ended).signal, 'SIGKILL')
    assert.ok(existsSync(state), 'it was killed after its first save')
    assert.not.ok(existsSync(join(folder, 'report.json')))
    const finished = readdirSync(join(folder, 'runs')).filter((f) => existsSync(join(folder, 'runs', f, 'result.json')))
    assert.ok(finished.length >= 3 && finished.length < 6, `${finished}`)
    // What has a result so far can be reported, and nothing more is done.
    const partial = await start(...command, '--finished').ended
    assert.is(partial.code, 0, partial.err)
    const soFar = JSON.parse(readFileSync(join(folder, 'report.json'), 'utf8')) as Report
    assert.is(soFar.variants.length, finished.length)
    assert.equal(
      soFar.variants,
      kept.get('ur-funny')!.variants.filter((v) => soFar.variants.some((s) => s.variant === v.variant)),
    )
    const { code, err } = await start(...command).ended
    assert.is(code, 0, err)
    const report = JSON.parse(readFileSync(join(folder, 'report.json'), 'utf8')) as Report
    assert.equal(steady(report), steady(kept.get('ur-funny')!))
  })

  test('a clip that cannot be read leaves its samples out, and the report says so', async () => {
    const source = (await makeDatasets(join(root, 'broken'), { samples: 12, clips: true }, ['youcook2']))['youcook2']!
    const broken = readdirSync(source, { recursive: true }).find((f) => String(f).includes('Fake------1'))!
    writeFileSync(join(source, String(broken)), 'no video')
    const { report, page } = await run('youcook2', out('broken'), { data: { source } })
    assert.equal(report.data.leftOut.map(({ id }) => id).sort(), ['Fake------1_0', 'Fake------1_1'])
    assert.match(page, /2 samples were left out, since their clip cannot be used/)
  })

  test('what is wrong is one sentence: another plan, other data, no data, a strange name', async () => {
    const other = { ...settings, train: { ...settings.train, batch: 2 } }
    assert.match(
      await refusal(() => run('youcook2', out('youcook2'), { settings: other })),
      /full\.seed-0: holds a run of other settings, samples or another model; choose another --out, or remove the folder\.$/,
    )
    assert.match(
      await refusal(() => run('youcook2', out('youcook2'), { data: { trainLimit: 2 } })),
      /data: holds data that was prepared from other files, with other options or for another model; choose another --out\.$/,
    )
    assert.match(
      await refusal(() => run('qaego4d', out('other'), { data: { folds: true } })),
      /^--folds: expected data in folds/,
    )
    assert.match(
      await refusal(() => run('qaego4d', out('other'), { data: { splitting: 'close' } })),
      /has no sample to train on here\.$/,
    )
    assert.match(
      await refusal(() => run('mustrad', out('other'))),
      /^reproduce: there is no experiment named "mustrad"; did you mean mustard\?$/,
    )
    assert.match(await refusal(() => run('mustard', out('other'), { variants: ['fress'] })), /did you mean fresh\?$/)
    const lacking = await start('reproduce', 'youcook2', '--model', join(root, 'model'), '--out', out('none')).ended
    assert.is(lacking.code, 1)
    assert.match(lacking.err, /--source: expected the folder with the published files, but got nothing\.\n$/)
  })

  test('the study of the tiny world: variants, differences, still pictures, curves over clips and steps', async () => {
    const dir = join(root, 'world')
    for (const [split, clips] of Object.entries({ train: 70, val: 4, test: 8 }))
      await renderClips({ dir, split, seed: 7, clips })
    await renderStills({ dir, split: 'test-stills', seed: 7, stills: 3 })
    const small = { ...settings, train: { epochs: 1, batch: 64, warmup: 0 } }
    const options = { data: { source: dir }, settings: small, variants: ['without-mqt', 'fresh'], seeds: 2 }
    const { report, page, steps } = await run('tiny-world', out('tiny-world'), options)
    const study = report as unknown as Study
    assert.ok(steps > 0)
    assert.equal(
      study.variants.map((v) => [v.variant, v.runs]),
      [
        ['zero-shot', 1],
        ['frozen-concat', 1],
        ['full', 2],
        ['without-mqt', 2],
        ['fresh', 2],
      ],
    )
    assert.equal(
      study.byClips.map((c) => [c.variant, c.clips]),
      ['full', 'fresh', 'without-mqt'].flatMap((v) => [64, 70].map((n) => [v, n])),
    )
    assert.equal(
      study.bySteps.map((c) => c.variant),
      ['full', 'fresh', 'without-mqt'],
    )
    const mean = (name: string): number => study.variants.find((v) => v.variant === name)!.accuracy['all']!.mean
    for (const { variant, test: of, stills } of study.differences) {
      const { difference, low, high, seeds } = of['all']!
      assert.ok(Math.abs(100 * difference - (mean(variant) - mean('full'))) < 1e-9, variant)
      assert.ok(low <= difference && difference <= high)
      assert.is(seeds, 2)
      assert.ok(stills.low <= stills.high)
    }
    for (const name of ['differences', 'stills', 'tasks', 'steps', 'clips']) {
      assert.match(page, new RegExp(`\\(report-${name}\\.svg\\)`))
      assert.match(readFileSync(join(out('tiny-world'), `report-${name}.svg`), 'utf8'), /^<svg [^]*<\/svg>\n$/)
    }
    const without = await run('tiny-world', out('tiny-world'), { ...options, curves: false })
    assert.is(without.steps, 0)
    assert.match(without.page, /Not in it: 2 seeds, not 5[^;]*; runs on 64 and 250 clips \(`--no-curves`\)/)
    rmSync(join(dir, 'val'), { recursive: true })
  })
}

test.run()
