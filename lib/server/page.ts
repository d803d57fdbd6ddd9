/** The files of the page: a fixed list, read once, so that no path of a request reaches the disk. */
import { readFile } from 'node:fs/promises'
import { createRequire } from 'node:module'
import { dirname, join } from 'node:path'

export interface PageFile {
  path: string
  type: string
  content: Buffer
}

export async function readPage(): Promise<PageFile[]> {
  const charts = dirname(createRequire(import.meta.url).resolve('uplot'))
  const own = (name: string): URL => new URL(`./page/${name}`, import.meta.url)
  const shared = (name: string): URL => new URL(`../report/page/${name}`, import.meta.url)
  const files: [string, string, URL | string][] = [
    ['/', 'text/html; charset=utf-8', own('index.html')],
    ['/base.css', 'text/css; charset=utf-8', shared('base.css')],
    ['/parts.mjs', 'text/javascript; charset=utf-8', shared('parts.mjs')],
    ['/page.css', 'text/css; charset=utf-8', own('page.css')],
    ['/page.mjs', 'text/javascript; charset=utf-8', own('page.mjs')],
    ['/icon.svg', 'image/svg+xml', own('icon.svg')],
    ['/uplot.mjs', 'text/javascript; charset=utf-8', join(charts, 'uPlot.esm.js')],
    ['/uplot.css', 'text/css; charset=utf-8', join(charts, 'uPlot.min.css')],
  ]
  return Promise.all(files.map(async ([path, type, file]) => ({ path, type, content: await readFile(file) })))
}
