import json, os, sys
print(json.dumps({"sample": sys.argv[1], "length": len(sys.argv[1]), "task": int(os.environ["SLURM_ARRAY_TASK_ID"])}))
