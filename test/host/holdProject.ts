// A process that opens a project, makes some decisions, tells, and holds it: arguments DIR DECISIONS.
import { AppError } from '../../core/contract/index.ts';
import { Project } from '../../core/host/project.ts';
import { decide } from '../../core/host/store/review.ts';
import { imageSize, rectangle } from './shapes.ts';

const [dir, decisions] = process.argv.slice(2);
try {
  const project = Project.open(dir!);
  for (let n = 0; n < Number(decisions); n++) {
    project.write((w) =>
      decide(w, { action: 'draw', imageId: 1, classId: null, rle: rectangle(imageSize, 3 * n, 1, 2, 2).rle, seconds: 1 }, ''),
    );
  }
  process.on('message', () => {
    project.close();
    process.exit(0);
  });
  process.send!('open');
} catch (error) {
  process.send!(error instanceof AppError ? error.code : String(error));
  process.disconnect();
}
