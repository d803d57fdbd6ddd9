// Charts as SVG: every value is drawn where its axis says, texts are escaped.
import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { intervalChart, lineChart } from '../../lib/report/svg.js'

const numbers = (svg: string, pattern: RegExp): number[][] =>
  [...svg.matchAll(pattern)].map((m) => m.slice(1).map(Number))

test('intervals lie around their values, by one scale, and are coloured by the side of zero they are on', () => {
  const rows = [
    { name: 'up <1>', value: 4, low: 2, high: 6 },
    { name: 'down', value: -5, low: -8, high: -2 },
    { name: 'open', value: 1, low: -1, high: 3 },
  ]
  const svg = intervalChart('A & B', 'points', rows)
  assert.match(svg, /^<svg [^]*<\/svg>\n$/)
  assert.match(svg, /aria-label="A &amp; B"/)
  assert.match(svg, />up &lt;1&gt;</)
  const circles = numbers(svg, /<circle cx="([\d.]+)" cy="([\d.]+)"/g)
  const bars = numbers(
    svg,
    /<line x1="([\d.]+)" y1="([\d.]+)" x2="([\d.]+)" y2="[\d.]+" stroke="#\w+" stroke-width="3"/g,
  )
  assert.equal([circles.length, bars.length], [3, 3])
  const scale = (circles[0]![0]! - circles[1]![0]!) / 9 // pixels of a point
  for (const [i, { value, low, high }] of rows.entries()) {
    const [x, y] = circles[i] as [number, number]
    const [from, barY, to] = bars[i] as [number, number, number]
    assert.ok(Math.abs(x - from - scale * (value - low)) < 0.05)
    assert.ok(Math.abs(to - x - scale * (high - value)) < 0.05)
    assert.is(y, barY)
  }
  const colors = [...svg.matchAll(/<circle [^>]*fill="(#\w+)"/g)].map((m) => m[1])
  assert.is(new Set(colors).size, 3)
})

test('lines pass their points; by the logarithm equal ratios are equal distances', () => {
  const points = [16, 64, 256].map((x, i) => ({ x, y: 10 * i }))
  const svg = lineChart('t', { x: 'clips', y: '%', log: true }, [{ name: 'full', points }])
  const [a, b, c] = numbers(svg, /<circle cx="([\d.]+)" cy="([\d.]+)"/g) as [number[], number[], number[]]
  assert.ok(Math.abs(b[0]! - a[0]! - (c[0]! - b[0]!)) < 0.05)
  assert.ok(Math.abs(a[1]! - b[1]! - (b[1]! - c[1]!)) < 0.05 && a[1]! > b[1]!)
  for (const x of ['16', '64', '256']) assert.match(svg, new RegExp(`>${x}</text>`))
  const linear = lineChart('t', { x: 'clips', y: '%' }, [{ name: 'full', points }])
  const [d, e, f] = numbers(linear, /<circle cx="([\d.]+)" cy="([\d.]+)"/g) as [number[], number[], number[]]
  assert.ok(Math.abs((f[0]! - e[0]!) / (e[0]! - d[0]!) - 4) < 0.01)
})

test('a chart of one point, and of equal values, is drawn', () => {
  for (const svg of [
    lineChart('one', { x: 'x', y: 'y' }, [{ name: 'a', points: [{ x: 3, y: 5 }] }]),
    lineChart('flat', { x: 'x', y: 'y' }, [
      {
        name: 'a',
        points: [
          { x: 1, y: 5 },
          { x: 2, y: 5 },
        ],
      },
    ]),
    intervalChart('zero', 'x', [{ name: 'a', value: 0, low: 0, high: 0 }]),
  ])
    assert.not.match(svg, /NaN|Infinity/)
})

test.run()
