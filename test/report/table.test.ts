import { test } from 'uvu'
import * as assert from 'uvu/assert'
import { markdownTable, textTable } from '../../lib/report/table.js'

test('text: columns are aligned, all but the first on the right, and no line ends in spaces', () => {
  const rows = [
    ['group', 'tensors', ''],
    ['lora', 40, 'x'],
    ['a', 1234567890],
  ]
  assert.is(textTable(rows), 'group     tensors\nlora           40  x\na      1234567890')
  assert.is(
    textTable(rows, () => false),
    'group  tensors\nlora   40          x\na      1234567890',
  )
  assert.is(textTable([]), '')
})

test('Markdown: bars are escaped, and columns may be set on the right', () => {
  assert.is(
    markdownTable(['key', 'n'], [['a|b', 1]], (column) => column === 1),
    '| key | n |\n| --- | ---: |\n| a\\|b | 1 |',
  )
  assert.is(markdownTable(['key'], []), '| key |\n| --- |')
})

test.run()
