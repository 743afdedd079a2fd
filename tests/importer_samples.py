"""A few made-up rows of each source, in the form that it writes."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

V1 = """gpu,task,model,throughput,response_length,latency,energy
A40,chat,lmsys/vicuna-7B,25.0,250.0,10.0,2000.0
A100,instruct,lmsys/vicuna-7B,50.0,200.0,4.0,1000.0
"""
V2 = """task,Model,GPU,TP,PP,Energy/req (J),Avg TPOT (s),Token tput (tok/s),Avg Output Tokens,Avg BS (reqs),Max BS (reqs)
chat,google/gemma-2-9b-it,NVIDIA A100-SXM4-40GB,2,1,100.0,0.05,1000.0,400.0,63.5,64
code,meta-llama/Meta-Llama-3.1-70B-Instruct,NVIDIA H100 80GB HBM3,8,2,400.0,0.1,4000.0,400.0,500.0,512
"""
V3 = """model_id,task,prec,gpu,num_gpus,tp,ep,dp,max_num_seqs,avg_batch_size,avg_output_len,avg_power_watts,energy_per_request_joules,energy_per_token_joules,output_throughput_tokens_per_sec,median_itl_ms,p95_itl_ms,p99_itl_ms
Qwen/Qwen3-8B,lm-arena-chat,bfloat16,H100,1,1,1,1,64,63.9,700.0,500.0,140.0,0.2,2500.0,20.0,25.0,30.0
Qwen/Qwen3-235B-A22B-Instruct-2507-FP8,gpqa,fp8,H100,8,1,8,1,256,255.0,5000.0,3200.0,4000.0,0.8,4000.0,50.0,60.0,70.0
"""
TOKENPOWERBENCH = """file,model,duration,total_output_tokens,responses,gpu_avg_power,gpu_energy,cpu_energy,dram_energy,total_energy,gpu0_power_watts,gpu1_power_watts,gpu2_power_watts,gpu3_power_watts,batch_size,engine,formatted_output
results/vllm_models--Llama-3.1-8B_128_1000_20250610_095633.json,Llama-3.1-8B,10.0,20000,32,480.0,4800.0,0.0,0.0,4800.0,300.0,60.0,60.0,60.0,128,vllm,"Power:
  GPU, 480 W"
results/deepspeed_models--Llama-3.1-8B_256_500_20250418_232621.json,models--meta-llama--Llama-3.1-8B,100.0,26000,52,600.0,60000.0,18000.0,2000.0,110000.0,300.0,300.0,,,256,deepspeed,
"""
LLM_INFERENCE_BENCH = """Hardware,Num of Hardware,Framework,Model,Input Output Length,Batch Size,Latency,Throughput,avg_power

Nvidia A100 GPU,1,vLLM,meta-llama/Llama-2-7b-hf,1024,16,32.0,1024.0,250000.0
Nvidia H100 GPU,1,TensorRT-LLM,meta-llama/Meta-Llama-3-8B,1024,1,8.0,256.0,450000.0
"""
JOULEBENCH = """model,precision,prompt_id,batch_size,n_runs,j_per_tok_mean,j_per_tok_ci_lo,j_per_tok_ci_hi,tok_per_s_mean,mean_watts,output_tokens_mean,input_tokens_mean,baseline_watts
meta-llama/Llama-3.2-1B-Instruct,fp16,longform,1,10,0.5,0.49,0.51,80.0,100.0,200.0,26.0,60.0
Qwen/Qwen2.5-32B-Instruct,int8,reasoning,4,10,4.0,3.9,4.1,50.0,260.0,200.0,26.0,60.0
"""
JOULEBENCH_RUNS = """model_id,dtype,quantization_mode,batch_size,context_len,input_tokens,output_tokens,elapsed_s,tokens_per_s,avg_watts,joules_total,joules_per_token,gpu_name,driver_version,transformers_version,error
EleutherAI/pythia-1b,float16,none,2,2048,158,256,2.0,128.0,120.0,230.0,0.8984,NVIDIA A100 80GB PCIe,530.30.02,4.57.6,
EleutherAI/pythia-1b,float16,none,2,2048,,,,,,,,NVIDIA A100 80GB PCIe,530.30.02,4.57.6,out of memory
"""
SPLITWISE = """model,hardware,prompt_size,batch_size,token_size,peak_power,average_power,prompt_time,token_time,e2e_time,tensor_parallel
llama2-70b,a100-80gb,512,4,128,1.0,0.75,200.0,50.0,8000.0,2
llama2-70b,h100-80gb,512,4,128,0.0,0.0,100.0,30.0,4000.0,2
"""
WATT_COUNTS = """,model,gpu_type,lambda_qps,generation_tokens_total,measurement_duration,gpu_energy,gpu_0_power_draw_watts_mean,gpu_0_power_draw_watts_min,gpu_0_power_draw_watts_max,gpu_0_power_draw_watts_std,time_to_first_token_seconds_events,e2e_request_latency_seconds_events,request_generation_tokens,request_prompt_tokens
0,google/gemma-2-2b-it,L4,0.33,800,300.0,15000.0,50.0,30.0,72.0,5.0,"[0.1, 0.2, 0.3, 0.4]","[2.0, 3.0, 4.0, 5.0]","[200, 200, 200, 200]","[10, 20, 30, 40]"
1,google/gemma-2-2b-it,L4,,256000,500.0,35000000.0,70.0,60.0,72.0,1.0,[],[500.0],"[256, 256]","[10, 20]"
"""
CODECARBON = """timestamp,project_name,run_id,duration,emissions,emissions_rate,cpu_power,gpu_power,ram_power,cpu_energy,gpu_energy,ram_energy,energy_consumed,country_name,country_iso_code,region,cpu_count,cpu_model,gpu_count,gpu_model,longitude,latitude,ram_total_size,tracking_mode
2024-05-27T10:49:55,secret project,9b6ce6e6,3600.0,0.2,0.0,42.5,250.0,31.0,0.04,0.5,0.03,0.57,Norway,NOR,,12,Xeon,2,2 x NVIDIA A40,10.7,59.9,83.4,machine
2024-05-27T12:49:55,cpu only,0b6ce6e6,100.0,0.2,0.0,42.5,0.0,31.0,0.001,0,0.001,0.002,Norway,NOR,,12,Xeon,,,10.7,59.9,83.4,machine
"""
ECOCOMPUTE_RUNS = """run_id,gpu,model,precision,batch_size,generated_tokens_per_iter,energy_j_per_1k_tok,throughput_tok_s,avg_power_w,total_energy_j,transformers,nvidia_driver
a,NVIDIA GeForce RTX 4090,Qwen/Qwen2-0.5B,INT8,1,256,8000.0,10.0,80.0,20480.0,4.57.6,535.1
"""
ECOCOMPUTE_BATCHES = """batch_size,total_time_s,throughput_tok_s,avg_power_w,total_energy_j,energy_per_1k_tokens_j,tokens_generated
8,20.0,102.4,200.0,4000.0,1953.1,2048
"""
ECOCOMPUTE_PAIRS = """gpu,model,precision,energy_fp16_j1k,energy_quant_j1k,n_runs,n_trials,note
RTX 4090,Qwen2-1.5B,NF4,2200.0,2500.0,10,2,
"""
WILKINS = """Phase,Runtime (s),CPU Energy (J),GPU Energy (J),Number of Output Tokens,Number of Input Tokens,Iteration,Model,Number of GPUs,Prompt,Total Number of Tokens,Batch Size,System
start-inference-A-0,4.0,20.0,800.0,32,8,0,Falcon (7B),1,"What, is
this?",40,32,Palmetto Intel+V100
model load,27.0,216.0,933.0,32,0,0,Falcon (7B),1,startup,0,32,Palmetto Intel+V100
start-inference-A-1,2.0,0.0,500.0,32,8,1,Falcon (7B),1,What is this?,40,32,Palmetto Intel+A100
"""
CHUYISHANG = """# D4 (NVIDIA RTX 6000 Ada - 48GB)
### Qwen2.5-3B-Instruct
PRIMARY MEASUREMENTS (M1-M10)
M1  Total energy:              180,000.00 J (0.05 kWh)
M2  Total tokens:              360,000
M3  Total time:                600.00 s (10.00 min)
M6  Average power:             300.00 W
M7  Peak power:                310.00 W
Idle power:                    20.00 W
Successful requests:           3,000
Average latency:               1.500 s
# DGX4 (A100-80GB)
### gpt-oss-20b
PRIMARY MEASUREMENTS (M1-M10)
M1  Total energy:              60000.00 J (0.01 kWh)
M2  Total tokens:              60,000
M3  Total time:                600.00 s
M6  Average power:             100.00 W
"""

INFERENCEX_ROW: dict[str, Any] = {
    "id": "1",
    "hardware": "b200",
    "framework": "vllm",
    "model": "gptoss120b",
    "precision": "fp4",
    "spec_method": "none",
    "disagg": False,
    "is_multinode": False,
    "decode_tp": 8,
    "decode_ep": 8,
    "num_prefill_gpu": 64,
    "num_decode_gpu": 64,
    "isl": 1024,
    "osl": 1024,
    "conc": 64,
    "metrics": {
        "power_valid": 1,
        "power_metric_schema_version": 2,
        "avg_power_w": 500.0,
        "avg_total_gpu_power_w": 4000.0,
        "total_gpu_energy_j": 400000.0,
        "joules_per_output_token": 2.0,
        "joules_per_input_token": 0.5,
        "joules_per_total_token": 0.4,
        "joules_per_successful_query": 2000.0,
        "output_tput_per_gpu": 250.0,
        "median_ttft": 0.5,
        "p99_ttft": 2.0,
        "median_tpot": 0.02,
        "mean_e2el": 20.0,
    },
}
AGGREGATE: dict[str, Any] = {
    "hw": "h200",
    "conc": 4,
    "precision": "fp8",
    "framework": "sglang",
    "model": "deepseek-ai/DeepSeek-R1",
    "tp": 8,
    "isl": 1024,
    "osl": 1024,
    "output_tput_per_gpu": 30.0,
    "median_tpot": 0.01,
    "power_valid": 0,
    "power_metric_schema_version": 2,
    "avg_power_w": 450.0,
    "joules_per_output_token": 9.0,
}
INFERENCEX_CSV = """id,model,hardware,framework,precision,isl,osl,conc,disagg,is_multinode,decode_tp,power_valid,power_metric_schema_version,avg_power_w,joules_per_output_token,joules_per_total_token
1,dsv4,b200,vllm,fp4,8192,1024,64,false,false,8,1,2,600.0,4.0,0.4
2,dsv4,gb200,dynamo,fp4,8192,1024,64,true,true,8,1,2,600.0,4.0,0.4
3,llama70b,mi355x,vllm,fp8,1024,1024,64,false,false,1,1,,900.0,1.0,0.4
"""
AIPERF: dict[str, Any] = {
    "schema_version": "1.0",
    "aiperf_version": "0.9.0",
    "request_throughput": {"unit": "requests/sec", "avg": 4.0},
    "request_latency": {"unit": "ms", "avg": 900.0, "p50": 800.0, "p95": 1500.0, "p99": 2000.0},
    "request_count": {"unit": "requests", "avg": 200},
    "time_to_first_token": {"unit": "ms", "avg": 60.0, "p50": 50.0, "p95": 100.0, "p99": 120.0},
    "inter_token_latency": {"unit": "ms", "avg": 9.0, "p50": 8.0, "p95": 12.0, "p99": 15.0},
    "output_token_throughput": {"unit": "tokens/sec", "avg": 400.0},
    "output_sequence_length": {"unit": "tokens", "avg": 100.0},
    "input_sequence_length": {"unit": "tokens", "avg": 512.0},
    "total_output_tokens": {"unit": "tokens", "avg": 20000},
    "benchmark_duration": {"unit": "sec", "avg": 50.0},
    "telemetry_data": {
        "summary": {"start_time": "2025-10-13T01:48:03", "end_time": "2025-10-13T01:48:55"},
        "endpoints": {
            "localhost:9401": {
                "gpus": {
                    "gpu_0": {
                        "gpu_index": 0,
                        "gpu_name": "NVIDIA H100 80GB HBM3",
                        "gpu_uuid": "GPU-a",
                        "metrics": {"nvidia_power_usage": {"unit": "W", "avg": 350.0}},
                    },
                    "gpu_1": {
                        "gpu_index": 1,
                        "gpu_name": "NVIDIA H100 80GB HBM3",
                        "gpu_uuid": "GPU-b",
                        "metrics": {"gpu_power_usage": {"unit": "W", "avg": 250.0}},
                    },
                }
            },
            "again:9400": {
                "gpus": {
                    "gpu_0": {
                        "gpu_name": "NVIDIA H100 80GB HBM3",
                        "gpu_uuid": "GPU-a",
                        "metrics": {"nvidia_power_usage": {"unit": "W", "avg": 350.0}},
                    }
                }
            },
        },
    },
    "input_config": {
        "endpoint": {"model_names": ["Qwen/Qwen3-0.6B"]},
        "loadgen": {"concurrency": 4, "request_rate": None},
    },
    "was_cancelled": False,
}
LEADGREEN = {
    "version": "1",
    "data_version": "2026-10-19",
    "unit": "Wh per 1,000 queries",
    "round": "December 2025",
    "setup": "batch size 1",
    "rows": [
        {"model": "google/gemma-3-1b-it", "class": "A", "wh_per_1000_queries": 5.0},
        {"model": "openai/gpt-oss-120b", "class": "C", "wh_per_1000_queries": 20.0},
    ],
}

TABLES: Mapping[str, tuple[str, str]] = {
    "mlenergy v1": ("mlenergy", V1),
    "mlenergy v2": ("mlenergy", V2),
    "mlenergy v3": ("mlenergy", V3),
    "tokenpowerbench": ("tokenpowerbench", TOKENPOWERBENCH),
    "llm-inference-bench": ("llm-inference-bench", LLM_INFERENCE_BENCH),
    "joulebench": ("joulebench", JOULEBENCH),
    "joulebench runs": ("joulebench", JOULEBENCH_RUNS),
    "splitwise": ("splitwise", SPLITWISE),
    "watt-counts": ("watt-counts", WATT_COUNTS),
    "codecarbon": ("codecarbon", CODECARBON),
    "ecocompute runs": ("ecocompute", ECOCOMPUTE_RUNS),
    "ecocompute batches": ("ecocompute", ECOCOMPUTE_BATCHES),
    "ecocompute pairs": ("ecocompute", ECOCOMPUTE_PAIRS),
    "inferencex csv": ("inferencex", INFERENCEX_CSV),
    "wilkins": ("wilkins", WILKINS),
}
"""(name of the source, text) of each form of table."""
JSON_FILES: Mapping[str, tuple[str, Any]] = {
    "inferencex rows": ("inferencex", [INFERENCEX_ROW]),
    "inferencex export": (
        "inferencex",
        {"metadata": {"selected_rows": 1, "metric_coverage": {}}, "rows": [INFERENCEX_ROW]},
    ),
    "inferencex aggregate": ("inferencex", AGGREGATE),
    "aiperf": ("aiperf", AIPERF),
    "leadgreen": ("leadgreen", LEADGREEN),
}
TEXTS: Mapping[str, tuple[str, str]] = {"chuyishang": ("chuyishang", CHUYISHANG)}


def write(folder: Path, form: str) -> Path:
    """The file of a form in `folder`."""
    if form in TABLES:
        path = folder / "file.csv"
        path.write_text(TABLES[form][1])
    elif form in TEXTS:
        path = folder / "file.md"
        path.write_text(TEXTS[form][1])
    else:
        path = folder / "file.json"
        path.write_text(json.dumps(JSON_FILES[form][1]))
    return path


def cells(form: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows of a form of table."""
    header, *rows = [row for row in csv.reader(io.StringIO(TABLES[form][1], newline="")) if row]
    return header, rows


def text(header: list[str], rows: list[list[str]], delimiter: str = ",", ending: str = "\n") -> str:
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=delimiter, lineterminator=ending)
    writer.writerows([header, *rows])
    return out.getvalue()
