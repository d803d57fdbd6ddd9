/** Chromium of the machine, driven by playwright-core, which brings none. */
import { existsSync, mkdirSync } from 'node:fs'
import { dirname } from 'node:path'
import { type Browser, chromium, type Page } from 'playwright-core'
import sharp from 'sharp'

const PLACES = [
  process.env.CHROMIUM,
  '/usr/bin/chromium',
  '/usr/bin/chromium-browser',
  '/usr/bin/google-chrome',
  '/Applications/Google Chrome.app/Contents/MacOS/Google Chrome',
  'C:\\Program Files\\Google\\Chrome\\Application\\chrome.exe',
]

/** The browser's program; undefined where there is none. */
export const browserPath = (): string | undefined => PLACES.find((path) => path && existsSync(path))

/** A browser without a window. The caller closes it. */
export const openBrowser = (executablePath: string): Promise<Browser> =>
  chromium.launch({ executablePath, args: ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage'] })

/** Writes a picture of the whole page, or of a part of it, where MT_SCREENSHOTS=1 asks for it. */
export async function picture(page: Page, path: string, part?: string): Promise<void> {
  if (process.env.MT_SCREENSHOTS !== '1') return
  mkdirSync(dirname(path), { recursive: true })
  const shot =
    part === undefined ? await page.screenshot({ fullPage: true }) : await page.locator(part).first().screenshot()
  // A palette takes less than half the bytes, and the page has few colours.
  await sharp(shot).png({ palette: true, colours: 128, effort: 10 }).toFile(path)
}

/** Texts of the page that are shown, each with the contrast to its ground; 4.5 is the least that is easy to read. */
export const contrasts = (page: Page, theme: 'light' | 'dark', selector: string): Promise<[string, number][]> =>
  page.evaluate(`(() => {
    document.documentElement.dataset.theme = '${theme}'
    const light = (c) => {
      const [r, g, b] = c.match(/[\\d.]+/g).map((x) => { x /= 255; return x <= 0.03928 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4 })
      return 0.2126 * r + 0.7152 * g + 0.0722 * b
    }
    const ground = (e) => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor; if (!/, 0\\)$/.test(c)) return c } return 'rgb(255, 255, 255)' }
    return [...document.querySelectorAll('${selector}')]
      .filter((e) => e.offsetParent && !e.disabled)
      .map((e) => { const [a, b] = [light(getComputedStyle(e).color), light(ground(e))].sort((x, y) => y - x); return [e.textContent.trim().slice(0, 20), (a + 0.05) / (b + 0.05)] })
  })()`)
