/** Colours for people at a terminal. They are off when piped, also where CI or FORCE_COLOR would switch picocolors' own on. */
import pc from 'picocolors';

export default pc.createColors(process.stdout.isTTY === true && !process.env.NO_COLOR && process.env.TERM !== 'dumb');
