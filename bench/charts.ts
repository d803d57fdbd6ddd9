/** Charts of a result, as SVG: vega-lite specifications over its rows. */
import { parse, View } from 'vega'
import { compile, type TopLevelSpec } from 'vega-lite'
import { ratios } from './compare.js'
import type { Result, Row } from './record.js'

const common = {
  $schema: 'https://vega.github.io/schema/vega-lite/v5.json',
  background: 'white',
  width: 420,
  height: 260,
  config: { font: 'sans-serif', legend: { labelLimit: 300 } },
} as const

/** A chart's file name and what it shows; undefined where its rows were not measured. */
const charts: Record<string, (result: Result) => TopLevelSpec | undefined> = {
  /** Time of the core and of the block in both forms over T. */
  forms({ rows }) {
    const values = rows
      .filter((r) => /^(factorized|joint) (core|block) /.test(r.id) && plain(r))
      .map((r) => ({
        T: r.sizes.T,
        ms: r.us.median / 1e3,
        form: r.id.split(' ')[0],
        part: `attention ${r.id.split(' ')[1]}`,
      }))
    if (values.length < 4) return undefined
    return {
      ...common,
      title: 'Forward, float32, one video without text: time by frames',
      data: { values },
      mark: { type: 'line', point: true },
      encoding: {
        x: {
          field: 'T',
          type: 'quantitative',
          scale: { type: 'log', base: 2 },
          axis: { title: 'frames T', values: [...new Set(values.map((v) => v.T))] as number[] },
        },
        y: { field: 'ms', type: 'quantitative', scale: { type: 'log' }, axis: { title: 'ms', tickCount: 6 } },
        color: { field: 'form', type: 'nominal', title: 'attention' },
        strokeDash: { field: 'part', type: 'nominal', title: 'part', legend: { symbolType: 'stroke' } },
      },
    }
  },
  /** The three ratios, by count and measured. */
  ratios({ rows }) {
    const values = ratios(rows)
      .filter((r) => r.K === 0 && r.pass === 'forward' && r.dtype === 'float32')
      .flatMap((r) => [
        { T: r.T, ratio: r.scores, what: 'score products', how: 'by count' },
        { T: r.T, ratio: r.blockFlops, what: 'block', how: 'by count' },
        ...(r.core ? [{ T: r.T, ratio: r.core, what: 'attention core', how: 'measured' }] : []),
        ...(r.block ? [{ T: r.T, ratio: r.block, what: 'block', how: 'measured' }] : []),
      ])
    if (!values.length) return undefined
    return {
      ...common,
      title: 'Joint over factorized: above 1, factorized is cheaper',
      data: { values },
      layer: [
        {
          mark: { type: 'line', point: true },
          encoding: {
            x: { field: 'T', type: 'quantitative', scale: { type: 'log', base: 2 }, axis: { title: 'frames T' } },
            y: {
              field: 'ratio',
              type: 'quantitative',
              scale: { type: 'log' },
              axis: { title: 'joint ÷ factorized', tickCount: 6 },
            },
            color: { field: 'what', type: 'nominal', title: 'of' },
            strokeDash: { field: 'how', type: 'nominal', title: 'ratio', legend: { symbolType: 'stroke' } },
          },
        },
        { mark: { type: 'rule', color: '#888' }, encoding: { y: { datum: 1 } } },
      ],
    }
  },
  /** What share of the floor each row reaches. */
  shares({ rows }) {
    const values = rows
      .filter((r) => r.share && r.cpu !== 'avx2')
      .map((r) => ({
        case: `${r.id}${r.dtype === 'float32' ? '' : `, ${r.dtype.replace('bfloat16', 'bf16')}`}${r.pass === 'forward' || r.pass === 'other' ? '' : `, ${r.pass}`}`,
        share: 100 * r.share!,
        bound: r.bound,
        suite: r.suite,
      }))
    if (!values.length) return undefined
    return {
      ...common,
      width: 360,
      height: { step: 13 },
      title: 'Share of the floor that was measured beside it, %',
      data: { values },
      mark: 'bar',
      encoding: {
        y: { field: 'case', type: 'nominal', sort: null, axis: { title: null, labelLimit: 420, labelFontSize: 9 } },
        x: { field: 'share', type: 'quantitative', axis: { title: '%' } },
        color: { field: 'bound', type: 'nominal', title: 'bound by' },
      },
    }
  },
  /** Peers' times over ours. */
  peers({ rows }) {
    const values = rows
      .filter((r) => r.cpu !== 'avx2')
      .flatMap((r) =>
        r.peers
          .filter((p) => p.kind === 'peer' && p.ratio)
          .map((p) => ({
            case: `${r.id}${r.dtype === 'float32' ? '' : `, ${r.dtype.replace('bfloat16', 'bf16')}`}${r.pass === 'forward' ? '' : `, ${r.pass}`}`,
            peer: p.name,
            ratio: p.ratio!,
          })),
      )
    if (!values.length) return undefined
    return {
      ...common,
      width: 360,
      height: { step: 13 },
      title: 'Time of peers over ours: right of 1, ours is faster',
      data: { values },
      layer: [
        {
          mark: { type: 'point', filled: true, size: 50 },
          encoding: {
            y: { field: 'case', type: 'nominal', sort: null, axis: { title: null, labelLimit: 420, labelFontSize: 9 } },
            x: {
              field: 'ratio',
              type: 'quantitative',
              scale: { type: 'log' },
              axis: { title: 'peer ÷ ours', tickCount: 6 },
            },
            color: { field: 'peer', type: 'nominal' },
          },
        },
        { mark: { type: 'rule', color: '#888' }, encoding: { x: { datum: 1 } } },
      ],
    }
  },
  /** Memory of the core in both forms. */
  memory({ rows }) {
    const values = rows
      .filter(
        (r) =>
          r.peakBytes &&
          /^(factorized|joint) (core|block) /.test(r.id) &&
          r.dtype === 'float32' &&
          r.sizes.K === 0 &&
          r.cpu !== 'avx2',
      )
      .flatMap((r) => [
        { T: r.sizes.T, MB: r.peakBytes! / 1e6, what: `${r.id.split(' ').slice(0, 2).join(' ')}, ${r.pass}` },
      ])
    if (values.length < 4) return undefined
    return {
      ...common,
      title: 'Peak memory of one call beyond its inputs',
      data: { values },
      mark: { type: 'line', point: true },
      encoding: {
        x: { field: 'T', type: 'quantitative', scale: { type: 'log', base: 2 }, axis: { title: 'frames T' } },
        y: { field: 'MB', type: 'quantitative', scale: { type: 'log' }, axis: { title: 'MB', tickCount: 6 } },
        color: { field: 'what', type: 'nominal', title: null },
      },
    }
  },
}
const plain = (r: Row): boolean => r.dtype === 'float32' && r.pass === 'forward' && r.sizes.K === 0 && r.cpu !== 'avx2'

/** Every chart that the result has rows for, by name. */
export async function svgs(result: Result): Promise<Map<string, string>> {
  const drawn = new Map<string, string>()
  for (const [name, spec] of Object.entries(charts)) {
    const made = spec(result)
    if (made) drawn.set(name, `${await new View(parse(compile(made).spec), { renderer: 'none' }).toSVG()}\n`)
  }
  return drawn
}
