/** Tables, as aligned text for a terminal and as Markdown. */

type Cell = string | number
/** The first row is the head, where there is one. */
type Rows = readonly (readonly Cell[])[]

/** Rows with aligned columns: those for which `right` holds on the right, by default all but the first. */
export function textTable(rows: Rows, right = (column: number): boolean => column > 0): string {
  const widths: number[] = []
  for (const row of rows) for (const [i, cell] of row.entries()) widths[i] = Math.max(widths[i] ?? 0, `${cell}`.length)
  const aligned = (cell: Cell, i: number): string =>
    right(i) ? `${cell}`.padStart(widths[i]!) : `${cell}`.padEnd(widths[i]!)
  return rows.map((row) => row.map(aligned).join('  ').trimEnd()).join('\n')
}

/** A Markdown table; columns for which `right` holds are set on the right, and a bar in a cell is escaped. */
export function markdownTable(head: readonly Cell[], rows: Rows, right = (_column: number): boolean => false): string {
  const line = (row: readonly Cell[]): string =>
    `| ${row.map((cell) => `${cell}`.replaceAll('|', '\\|')).join(' | ')} |`
  return [line(head), line(head.map((_, i) => (right(i) ? '---:' : '---'))), ...rows.map(line)].join('\n')
}
