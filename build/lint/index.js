/** The project's own lint rules. */
import { noCycle } from './cycles.js';
import { rooms } from './rooms.js';

export default { meta: { name: 'patchwise' }, rules: { rooms, 'no-cycle': noCycle } };
