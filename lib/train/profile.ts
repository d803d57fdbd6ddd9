/** Which steps of a run are profiled. */
import { startProfile, stopProfile, type Profile } from '../tensor/profile.js'

/** Steps of an epoch, counted from 0; earlier ones warm up. */
const [FIRST, LAST] = [2, 11]

/**
 * Profiles steps 3 to 12 of the first epoch that a run trains, or the whole epoch where it has fewer than 12. Work
 * outside of steps (features, validation) is left out.
 */
export class StepProfile {
  private state: 'before' | 'recording' | 'over' = 'before'

  constructor(private readonly listener: (profile: Profile) => void | Promise<void>) {}

  /** Before step `i` of `n`. */
  before(i: number, n: number): void {
    if (this.state !== 'before' || i !== (n > LAST ? FIRST : 0)) return
    startProfile()
    this.state = 'recording'
  }

  /** After step `i`. */
  async after(i: number): Promise<void> {
    if (i === LAST) await this.stop()
  }

  /** At the end of an epoch, also a failed one: hands over the profile. */
  async stop(): Promise<void> {
    if (this.state !== 'recording') return
    this.state = 'over'
    await this.listener(await stopProfile())
  }
}
