/** Chromium of the machine, driven by playwright-core, which brings none. */
import { existsSync } from 'node:fs'
import { type Browser, chromium } from 'playwright-core'

const PLACES = [
  process.env.CHROMIUM,
  '/usr/bin/chromium',
  '/usr/bin/chromium-browser',
  '/usr/bin/google-chrome',
  '/Applications/Google Chrome.app/Contents/MacOS/Google Chrome',
  'C:\\Program Files\\Google\\Chrome\\Application\\chrome.exe',
]

/** A browser; or why there is none. The caller closes it. */
export async function openBrowser(): Promise<Browser | string> {
  const executablePath = PLACES.find((path) => path && existsSync(path))
  if (!executablePath) return 'chromium is not installed (apt-get install chromium), nor named by CHROMIUM'
  return chromium.launch({ executablePath, args: ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage'] })
}
