/** Exit statuses of the command line. */
export const EXIT = {
  ok: 0,
  /** The work failed, or a verification was off. */
  failure: 1,
  /** The command line itself was wrong. */
  usage: 2,
  /** Ctrl+C: 128 + SIGINT, as shells report it. */
  interrupted: 130,
} as const

/** Thrown by a command for an option value that makes no sense. */
export class UsageError extends Error {}
