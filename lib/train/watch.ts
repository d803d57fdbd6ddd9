/** The watchdog: reports on the error stream that a run makes no progress. */
import { performance } from 'node:perf_hooks'

/** Minutes without progress after which a line is printed, each time. */
const PATIENCE = 5

export class Watch {
  private since = performance.now()
  private readonly timer: NodeJS.Timeout

  /**
   * @param where what the run is doing, for the message
   * @param minutes minutes without progress
   */
  constructor(
    private readonly where: () => string,
    minutes = PATIENCE,
    private readonly say: (line: string) => void = console.error,
  ) {
    this.timer = setInterval(() => {
      const waited = (performance.now() - this.since) / 60_000
      this.say(`training: no progress for ${Number(waited.toFixed(1))} minutes; it is at ${this.where()}.`)
    }, minutes * 60_000).unref()
  }

  /** Reports progress: a step, a clip or an answer has ended. */
  ended(): void {
    this.since = performance.now()
    this.timer.refresh()
  }

  stop(): void {
    clearInterval(this.timer)
  }
}
